package drakma

import (
	"crypto/md5"
	"crypto/rand"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"net/url"
	"slices"
	"strings"
	"sync"
)

// errMalformed says that a WWW-Authenticate field breaks the grammar of RFC 9110
// section 11.
var errMalformed = errors.New("malformed WWW-Authenticate field")

// An authChallenge is one challenge of a WWW-Authenticate field.
type authChallenge struct {
	scheme string            // in lower case
	params map[string]string // by name in lower case; nil if the challenge has a token68
}

// parseChallenges returns the challenges in the values of WWW-Authenticate fields. If a value
// is malformed, it returns errMalformed and the challenges before that point.
func parseChallenges(values []string) ([]authChallenge, error) {
	var list []authChallenge
	for _, v := range values {
		p := fieldParser{rest: v}
		for p.skipCommas(); p.rest != ""; p.skipCommas() {
			c, ok := p.challenge()
			if !ok {
				return list, errMalformed
			}
			list = append(list, c)
		}
	}
	return list, nil
}

// A fieldParser reads the value of a field from its beginning.
type fieldParser struct{ rest string }

func (p *fieldParser) skipSpace()  { p.rest = strings.TrimLeft(p.rest, " \t") }
func (p *fieldParser) skipCommas() { p.rest = strings.TrimLeft(p.rest, " \t,") }

// challenge reads a scheme and its parameters, or its token68.
func (p *fieldParser) challenge() (authChallenge, bool) {
	scheme := p.token()
	if scheme == "" || p.rest != "" && !strings.ContainsRune(" \t,", rune(p.rest[0])) {
		return authChallenge{}, false
	}
	c := authChallenge{scheme: strings.ToLower(scheme)}
	p.skipSpace()
	if p.skipToken68() {
		return c, true
	}
	c.params = make(map[string]string)
	for {
		before := p.rest
		name := strings.ToLower(p.token())
		p.skipSpace()
		if name == "" || !strings.HasPrefix(p.rest, "=") {
			p.rest = before // the next scheme, or the end
			// The rest must begin like a challenge. Otherwise a parameter is malformed.
			return c, before == "" || before[0] == ',' || name != ""
		}
		p.rest = p.rest[1:]
		p.skipSpace()
		value, ok := p.value()
		if _, twice := c.params[name]; !ok || twice {
			return c, false
		}
		c.params[name] = value
		p.skipSpace()
		if p.rest != "" && p.rest[0] != ',' {
			return c, false
		}
		p.skipCommas()
	}
}

func isTokenByte(b byte) bool {
	return b >= '0' && b <= '9' || b >= 'a' && b <= 'z' || b >= 'A' && b <= 'Z' || strings.IndexByte("!#$%&'*+-.^_`|~", b) >= 0
}

// token reads a token, and returns "" if there is none.
func (p *fieldParser) token() string {
	n := 0
	for n < len(p.rest) && isTokenByte(p.rest[n]) {
		n++
	}
	t := p.rest[:n]
	p.rest = p.rest[n:]
	return t
}

// skipToken68 skips a token68, and reports whether there was one. A name with a value is a
// parameter, not a token68.
func (p *fieldParser) skipToken68() bool {
	n := 0
	for n < len(p.rest) && (isTokenByte(p.rest[n]) || p.rest[n] == '/') {
		n++
	}
	if n == 0 {
		return false
	}
	after := strings.TrimLeft(strings.TrimLeft(p.rest[n:], "="), " \t")
	if after != "" && after[0] != ',' {
		return false
	}
	p.rest = after
	return true
}

// value reads a token or a quoted string.
func (p *fieldParser) value() (string, bool) {
	if !strings.HasPrefix(p.rest, `"`) {
		t := p.token()
		return t, t != ""
	}
	var b strings.Builder
	for i := 1; i < len(p.rest); i++ {
		switch p.rest[i] {
		case '"':
			p.rest = p.rest[i+1:]
			return b.String(), true
		case '\\':
			if i++; i == len(p.rest) {
				return "", false
			}
		}
		b.WriteByte(p.rest[i])
	}
	return "", false
}

// A digest is a challenge of the scheme Digest (RFC 7616) that the client can respond to.
type digest struct {
	realm, nonce, opaque string
	algorithm            string // as in the challenge; "" if absent
	newHash              func() hash.Hash
	session              bool // the algorithm ends with -sess
	auth, authInt        bool // the offered qualities of protection; RFC 2069 has neither
	userhash, stale      bool
}

var digestHashes = map[string]func() hash.Hash{
	"":            md5.New,
	"MD5":         md5.New,
	"SHA-256":     sha256.New,
	"SHA-512-256": sha512.New512_256,
}

// newDigest returns the first challenge that the client can respond to, as RFC 7616
// section 3.7 requires. It returns nil and no error if there is no challenge of the
// scheme Digest.
func newDigest(values []string) (*digest, error) {
	list, err := parseChallenges(values)
	for _, c := range list {
		if c.scheme != "digest" {
			continue
		}
		d, e := c.digest()
		if e == nil {
			return d, nil
		}
		if err == nil {
			err = e
		}
	}
	return nil, err
}

func (c authChallenge) digest() (*digest, error) {
	d := &digest{realm: c.params["realm"], nonce: c.params["nonce"], opaque: c.params["opaque"], algorithm: c.params["algorithm"]}
	if _, ok := c.params["realm"]; !ok {
		return nil, errors.New("the challenge has no realm")
	}
	if d.nonce == "" {
		return nil, errors.New("the challenge has no nonce")
	}
	name := strings.ToUpper(d.algorithm)
	name, d.session = strings.CutSuffix(name, "-SESS")
	if d.newHash = digestHashes[name]; d.newHash == nil || name == "" && d.session {
		return nil, fmt.Errorf("the algorithm %q is unknown", d.algorithm)
	}
	if qop, ok := c.params["qop"]; ok {
		for q := range strings.SplitSeq(qop, ",") {
			switch strings.ToLower(strings.TrimSpace(q)) {
			case "auth":
				d.auth = true
			case "auth-int":
				d.authInt = true
			}
		}
		if !d.auth && !d.authInt {
			return nil, fmt.Errorf("the quality of protection %q is unknown", qop)
		}
	}
	d.userhash = strings.EqualFold(c.params["userhash"], "true")
	d.stale = strings.EqualFold(c.params["stale"], "true")
	return d, nil
}

// hash returns the hash, in hexadecimal, of the parts joined with colons.
func (d *digest) hash(parts ...string) string {
	h := d.newHash()
	h.Write([]byte(strings.Join(parts, ":")))
	return hex.EncodeToString(h.Sum(nil))
}

// authorization returns the value of the field Authorization. body is nil if the body is not
// in memory, so that it cannot be hashed.
func (d *digest) authorization(user, password, method, uri string, body *[]byte, nc uint32, cnonce string) (string, error) {
	a1 := user + ":" + d.realm + ":" + password
	if d.session {
		a1 = d.hash(a1) + ":" + d.nonce + ":" + cnonce
	}
	a2, qop := method+":"+uri, ""
	switch {
	case d.auth:
		qop = "auth"
	case d.authInt && body == nil:
		return "", errors.New("auth-int needs a body that is in memory")
	case d.authInt:
		qop = "auth-int"
		a2 += ":" + d.hash(string(*body))
	}
	count := fmt.Sprintf("%08x", nc)
	parts := []string{d.hash(a1), d.nonce, d.hash(a2)}
	if qop != "" {
		parts = []string{d.hash(a1), d.nonce, count, cnonce, qop, d.hash(a2)}
	}
	response := d.hash(parts...)

	var b strings.Builder
	b.WriteString("Digest ")
	switch {
	case d.userhash:
		b.WriteString("username=" + quote(d.hash(user, d.realm)))
	case isASCII(user):
		b.WriteString("username=" + quote(user))
	default:
		b.WriteString("username*=UTF-8''" + strings.ReplaceAll(url.QueryEscape(user), "+", "%20"))
	}
	b.WriteString(", realm=" + quote(d.realm) + ", uri=" + quote(uri) + ", nonce=" + quote(d.nonce) + ", response=" + quote(response))
	if d.algorithm != "" {
		b.WriteString(", algorithm=" + d.algorithm)
	}
	if qop != "" {
		b.WriteString(", qop=" + qop + ", nc=" + count)
	}
	if qop != "" || d.session {
		b.WriteString(", cnonce=" + quote(cnonce))
	}
	if d.opaque != "" {
		b.WriteString(", opaque=" + quote(d.opaque))
	}
	if d.userhash {
		b.WriteString(", userhash=true")
	}
	return b.String(), nil
}

func quote(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s) + `"`
}

func isASCII(s string) bool {
	return !slices.ContainsFunc([]byte(s), func(b byte) bool { return b >= 0x80 })
}

// maxNonces is the maximum number of challenges that a client remembers.
const maxNonces = 1024

// A digestCache remembers the challenge of each server, so that the next request is
// authorized at once.
type digestCache struct {
	mu   sync.Mutex
	last map[string]*digestUse // by origin and user
}

// A digestUse is a challenge with the number of uses of its nonce.
type digestUse struct {
	digest
	nc uint32
}

func (c *digestCache) put(key string, d *digest) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.last == nil || len(c.last) >= maxNonces {
		c.last = make(map[string]*digestUse)
	}
	c.last[key] = &digestUse{digest: *d}
}

// use returns the challenge for another request, and the number of uses including this one.
func (c *digestCache) use(key string) (*digest, uint32) {
	c.mu.Lock()
	defer c.mu.Unlock()
	u := c.last[key]
	if u == nil {
		return nil, 0
	}
	u.nc++
	d := u.digest
	return &d, u.nc
}

// next stores the nonce that the server requests for the next use (RFC 7616 section 3.5).
func (c *digestCache) next(key string, info string) {
	list, err := parseChallenges([]string{"info " + info})
	if err != nil || len(list) != 1 || list[0].params["nextnonce"] == "" {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if u := c.last[key]; u != nil {
		u.nonce, u.nc = list[0].params["nextnonce"], 0
	}
}

func newCnonce() string {
	var b [16]byte
	rand.Read(b[:])
	return hex.EncodeToString(b[:])
}
