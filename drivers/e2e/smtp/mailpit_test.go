package main

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"testing"

	"github.com/onloop/eventloop/drivers/e2e/internal/child"
)

// startMailpit starts github.com/axllent/mailpit as a child process. It refuses all
// recipients that are not of e2e.example.
func startMailpit(t *testing.T) *testServer {
	program, err := child.Build("mailpit", "github.com/axllent/mailpit")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	cert, key := writeCertificate(t, dir)
	users := filepath.Join(dir, "users")
	if err := os.WriteFile(users, []byte("ann:secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	addr, api := reserve(t), reserve(t)
	server := startChild(t, child.Command(program, "--smtp", addr, "--listen", api, "--database", filepath.Join(dir, "mails.db"),
		"--smtp-tls-cert", cert, "--smtp-tls-key", key, "--smtp-require-starttls", "--smtp-auth-file", users,
		"--smtp-allowed-recipients", "@e2e\\.example$", "--smtp-disable-rdns", "--disable-version-check"))
	awaitListening(t, server, addr)
	awaitListening(t, server, api)
	return &testServer{addr: addr, auth: true, utf8: true, mails: func(t *testing.T) []string { return mailsOf(t, "http://"+api) }}
}

// mailsOf asks a mailpit for its mails.
func mailsOf(t *testing.T, url string) (mails []string) {
	var list struct {
		Messages []struct{ ID string }
	}
	if err := json.Unmarshal(get(t, url+"/api/v1/messages?limit=1000"), &list); err != nil {
		t.Fatal(err)
	}
	for _, m := range list.Messages {
		mails = append(mails, string(get(t, url+"/api/v1/message/"+m.ID+"/raw")))
	}
	return mails
}

func get(t *testing.T, url string) []byte {
	c := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	res, err := c.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	p, err := io.ReadAll(res.Body)
	if err == nil && res.StatusCode != http.StatusOK {
		err = errors.New(res.Status)
	}
	if err != nil {
		t.Fatalf("%s: %v", url, err)
	}
	return p
}
