package awsloop_test

import (
	"crypto"
	"crypto/rsa"
	"crypto/sha1"
	"encoding/base64"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/feature/cloudfront/sign"
)

// The private key, the key's name, the URL and the signature are published: they are those
// of the tests of boto, and of other libraries, for the example of a canned policy in
// Amazon's documentation. The key protects nothing.
const (
	publishedKey = `-----BEGIN RSA PRIVATE KEY-----
MIICXQIBAAKBgQDA7ki9gI/lRygIoOjV1yymgx6FYFlzJ+z1ATMaLo57nL57AavW
hb68HYY8EA0GJU9xQdMVaHBogF3eiCWYXSUZCWM/+M5+ZcdQraRRScucmn6g4EvY
2K4W2pxbqH8vmUikPxir41EeBPLjMOzKvbzzQy9e/zzIQVREKSp/7y1mywIDAQAB
AoGABc7mp7XYHynuPZxChjWNJZIq+A73gm0ASDv6At7F8Vi9r0xUlQe/v0AQS3yc
N8QlyR4XMbzMLYk3yjxFDXo4ZKQtOGzLGteCU2srANiLv26/imXA8FVidZftTAtL
viWQZBVPTeYIA69ATUYPEq0a5u5wjGyUOij9OWyuy01mbPkCQQDluYoNpPOekQ0Z
WrPgJ5rxc8f6zG37ZVoDBiexqtVShIF5W3xYuWhW5kYb0hliYfkq15cS7t9m95h3
1QJf/xI/AkEA1v9l/WN1a1N3rOK4VGoCokx7kR2SyTMSbZgF9IWJNOugR/WZw7HT
njipO3c9dy1Ms9pUKwUF46d7049ck8HwdQJARgrSKuLWXMyBH+/l1Dx/I4tXuAJI
rlPyo+VmiOc7b5NzHptkSHEPfR9s1OK0VqjknclqCJ3Ig86OMEtEFBzjZQJBAKYz
470hcPkaGk7tKYAgP48FvxRsnzeooptURW5E+M+PQ2W9iDPPOX9739+Xi02hGEWF
B0IGbQoTRFdE4VVcPK0CQQCeS84lODlC0Y2BZv2JxW3Osv/WkUQ4dslfAQl1T303
7uwwr7XTroMv8dIFQIPreoPhRKmd/SbJzbiKfS/4QDhU
-----END RSA PRIVATE KEY-----`
	publishedKeyID     = "PK123456789754"
	publishedURL       = "http://d604721fxaaqy9.cloudfront.net/horizon.jpg?large=yes&license=yes"
	publishedExpires   = 1258237200
	publishedSignature = "Nql641NHEUkUaXQHZINK1FZ~SYeUSoBJMxjdgqrzIdzV2gyEXPDNv0pYdWJkflDKJ3xIu7lbwRpSkG98NBlgPi4ZJpRRnVX4kXAJK6tdNx6FucDB7OVqzcxkxHsGFd8VCG1BkC-Afh9~lOCMIYHIaiOB6~5jt9w2EOwi6sIIqrg_"
)

func signingKey(t testing.TB) *rsa.PrivateKey {
	t.Helper()
	key, err := sign.LoadPEMPrivKey(strings.NewReader(publishedKey))
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func TestASignedURLIsTheOneOfTheDocumentation(t *testing.T) {
	got, err := sign.NewURLSigner(publishedKeyID, signingKey(t)).Sign(publishedURL, time.Unix(publishedExpires, 0))
	want := publishedURL + "&Expires=1258237200&Signature=" + publishedSignature + "&Key-Pair-Id=" + publishedKeyID
	if err != nil || got != want {
		t.Errorf("%v\n%s, want\n%s", err, got, want)
	}
}

// The signature of a policy is the same in a cookie. RSA with PKCS #1 v1.5 has one signature
// for one message, so it is enough that the policy is the published one and that its
// signature is.
func TestSignedCookiesCarryTheSignatureOfTheDocumentation(t *testing.T) {
	policy := sign.NewCannedPolicy(publishedURL, time.Unix(publishedExpires, 0))
	cookies, err := sign.NewCookieSigner(publishedKeyID, signingKey(t)).SignWithPolicy(policy)
	if err != nil {
		t.Fatal(err)
	}
	values := map[string]string{}
	for _, c := range cookies {
		values[c.Name] = c.Value
	}
	if got := values[sign.CookieSignatureName]; got != publishedSignature {
		t.Errorf("signature %s, want %s", got, publishedSignature)
	}
	if got := values[sign.CookieKeyIDName]; got != publishedKeyID {
		t.Errorf("key %s, want %s", got, publishedKeyID)
	}
	const want = `{"Statement":[{"Resource":"` + publishedURL + `","Condition":{"DateLessThan":{"AWS:EpochTime":1258237200}}}]}`
	if got := decode(t, values[sign.CookiePolicyName]); string(got) != want {
		t.Errorf("policy %s, want %s", got, want)
	}
}

func TestTheSignatureOfACustomPolicyIsOfItsPolicy(t *testing.T) {
	policy := &sign.Policy{Statements: []sign.Statement{{
		Resource: "http://d604721fxaaqy9.cloudfront.net/training/*",
		Condition: sign.Condition{
			IPAddress:    &sign.IPAddress{SourceIP: "145.168.143.0/24"},
			DateLessThan: sign.NewAWSEpochTime(time.Unix(publishedExpires, 0)),
		},
	}}}
	key := signingKey(t)
	signed, err := sign.NewURLSigner(publishedKeyID, key).SignWithPolicy("http://d604721fxaaqy9.cloudfront.net/training/orientation.avi", policy)
	if err != nil {
		t.Fatal(err)
	}
	u, err := url.Parse(signed)
	if err != nil {
		t.Fatal(err)
	}
	text := decode(t, u.Query().Get("Policy"))
	for _, part := range []string{`"AWS:SourceIp":"145.168.143.0/24"`, `"AWS:EpochTime":1258237200`, `/training/*`} {
		if !strings.Contains(string(text), part) {
			t.Errorf("no %s in %s", part, text)
		}
	}
	sum := sha1.Sum(text)
	if err := rsa.VerifyPKCS1v15(&key.PublicKey, crypto.SHA1, sum[:], decode(t, u.Query().Get("Signature"))); err != nil {
		t.Error(err)
	}
}

// decode undoes CloudFront's form of base64.
func decode(t *testing.T, s string) []byte {
	t.Helper()
	b, err := base64.StdEncoding.DecodeString(strings.NewReplacer("-", "+", "_", "=", "~", "/").Replace(s))
	if err != nil {
		t.Fatal(err)
	}
	return b
}
