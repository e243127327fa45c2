package httpbridge

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/onloop/eventloop"
	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"
)

func TestOAuth2WorksOverTheRoundTripper(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/token" {
			r.ParseForm()
			w.Header().Set("Content-Type", "application/json")
			fmt.Fprintf(w, `{"access_token": %q, "token_type": "Bearer", "expires_in": 3600}`, "for "+r.Form.Get("grant_type"))
			return
		}
		io.WriteString(w, r.Header.Get("Authorization"))
	}))
	defer server.Close()
	onLoop(t, nil, func(t *testing.T, l *eventloop.Loop) {
		ctx := context.WithValue(bg, oauth2.HTTPClient, &http.Client{Transport: l.HTTP().RoundTripper()})
		cfg := clientcredentials.Config{ClientID: "id", ClientSecret: "secret", TokenURL: server.URL + "/token"}
		res, err := cfg.Client(ctx).Get(server.URL + "/data")
		if err != nil {
			t.Error(err)
			return
		}
		defer res.Body.Close()
		if body, err := io.ReadAll(res.Body); string(body) != "Bearer for client_credentials" || err != nil {
			t.Errorf("%q, %v", body, err)
		}
	})
}
