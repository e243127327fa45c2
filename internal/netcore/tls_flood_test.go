package netcore

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"crypto/tls"
	"encoding/binary"
	"encoding/hex"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/onloop/eventloop/internal/sockio"
)

// A peer that asks for KeyUpdates and reads no reply makes the replies pile up. They
// are bounded by themselves: the user has written nothing that could time out.
func TestAFloodOfKeyUpdatesEndsReadingBeforeTheRepliesFillTheMemory(t *testing.T) {
	each(t, func(t *testing.T, k kind) {
		nc, peer := k.pair(t)
		below := nc
		if h, ok := nc.(hidden); ok {
			below = h.Conn
		}
		if s, ok := below.(interface{ SetWriteBuffer(int) error }); ok {
			s.SetWriteBuffer(4 << 10) // the kernel holds few of them
		}
		c := newConn(t, nc, k.ours)
		done := beside(t, func() {
			u := updaterOver(t, peer)
			for n := 0; u.send(n%10 == 9) == nil; n++ { // data keeps crypto/tls from counting useless records
			}
		})
		if err := c.secure(context.Background(), serverTLS(), false, ""); err != nil {
			t.Fatal(err)
		}
		most := 0
		var err error
		c.SetReadDeadline(time.Now().Add(watchdog))
		for err == nil {
			var b *sockio.Buffer
			if b, err = c.Read(sockio.MaxBuffer); b != nil {
				b.Release()
			}
			c.Lock()
			most = max(most, c.out.Len())
			c.Unlock()
		}
		if err != ErrFlood {
			t.Errorf("Read = %v, want ErrFlood", err)
		}
		if limit := 2*maxSeal + maxReplies; most > limit || most < maxReplies/2 {
			t.Errorf("up to %d bytes of replies were held, want many, and at most %d", most, limit)
		}
		c.abort()
		wait(t, done, "end of the peer")
	})
}

// Replies that are read may be any number.
func TestKeyUpdatesOfAPeerThatReadsGetReplies(t *testing.T) {
	nc, peer := tcpPair(t)
	c := newConn(t, nc, true)
	const updates = 20_000
	beside(t, func() {
		u := updaterOver(t, peer)
		go peer.(*net.TCPConn).WriteTo(discard{})
		for n := range updates {
			if err := u.send(n%10 == 9); err != nil {
				t.Errorf("KeyUpdate %d: %v", n, err)
				return
			}
		}
	})
	if err := c.secure(context.Background(), serverTLS(), false, ""); err != nil {
		t.Fatal(err)
	}
	if got := c.readString(t, updates/10); strings.Trim(got, "d") != "" {
		t.Errorf("read other bytes than were sent: %.40q", got)
	}
	c.abort()
}

type discard struct{}

func (discard) Write(p []byte) (int, error) { return len(p), nil }

// A keyUpdater is a client of TLS 1.3 that sends what crypto/tls never does.
type keyUpdater struct {
	nc     net.Conn
	secret []byte
	seal   cipher.AEAD
	iv     []byte
	seq    uint64
}

// updaterOver performs a handshake over nc.
func updaterOver(t testing.TB, nc net.Conn) *keyUpdater {
	var keys bytes.Buffer
	conf := clientTLS()
	conf.MinVersion, conf.KeyLogWriter = tls.VersionTLS13, &keys
	tc := tls.Client(nc, conf)
	if err := tc.Handshake(); err != nil {
		t.Errorf("the peer's handshake: %v", err)
	}
	if suite := tc.ConnectionState().CipherSuite; suite != tls.TLS_AES_128_GCM_SHA256 {
		t.Errorf("cipher suite %s, want that of this peer", tls.CipherSuiteName(suite))
	}
	u := &keyUpdater{nc: nc}
	for line := range strings.Lines(keys.String()) {
		if f := strings.Fields(line); f[0] == "CLIENT_TRAFFIC_SECRET_0" {
			u.secret, _ = hex.DecodeString(f[2])
		}
	}
	u.rekey()
	return u
}

// expand is HKDF-Expand-Label of RFC 8446, section 7.1.
func (u *keyUpdater) expand(label string, n int) []byte {
	label = "tls13 " + label
	info := append(binary.BigEndian.AppendUint16(nil, uint16(n)), byte(len(label)))
	p, err := hkdf.Expand(sha256.New, u.secret, string(info)+label+"\x00", n)
	if err != nil {
		panic(err)
	}
	return p
}

func (u *keyUpdater) rekey() {
	block, err := aes.NewCipher(u.expand("key", 16))
	if err != nil {
		panic(err)
	}
	u.seal, _ = cipher.NewGCM(block)
	u.iv, u.seq = u.expand("iv", 12), 0
}

// send sends a KeyUpdate that asks for one, and before it a byte of data.
func (u *keyUpdater) send(data bool) error {
	var p []byte
	if data {
		p = u.record(p, 23, 'd')
	}
	p = u.record(p, 22, 24, 0, 0, 1, 1)
	u.secret = u.expand("traffic upd", sha256.Size)
	u.rekey()
	_, err := u.nc.Write(p)
	return err
}

// record appends the record of a message.
func (u *keyUpdater) record(p []byte, kind byte, message ...byte) []byte {
	nonce := bytes.Clone(u.iv)
	binary.BigEndian.PutUint64(nonce[4:], binary.BigEndian.Uint64(nonce[4:])^u.seq)
	u.seq++
	head := []byte{23, 3, 3, 0, byte(len(message) + 1 + u.seal.Overhead())}
	return append(append(p, head...), u.seal.Seal(nil, nonce, append(message, kind), head)...)
}
