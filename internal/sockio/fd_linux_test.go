package sockio

import (
	"bytes"
	"io"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// pair returns the two ends of a unix stream connection and the descriptor of
// the first, which does not block.
func pair(t *testing.T) (fd uintptr, near, far *net.UnixConn) {
	t.Helper()
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_NONBLOCK|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	conns := make([]*net.UnixConn, 2)
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "pair")
		nc, err := net.FileConn(f)
		f.Close()
		if err != nil {
			t.Fatal(err)
		}
		conns[i] = nc.(*net.UnixConn)
		t.Cleanup(func() { nc.Close() })
	}
	rc, ok := Descriptor(conns[0])
	if !ok {
		t.Fatal("a unix stream connection has no descriptor")
	}
	rc.Control(func(got uintptr) { fd = got })
	return fd, conns[0], conns[1]
}

func TestReadFDReadsWhatIsThereAndNeverBlocks(t *testing.T) {
	fd, _, far := pair(t)
	p := make([]byte, 10)
	if n, errno := ReadFD(fd, p); n != 0 || errno != syscall.EAGAIN {
		t.Errorf("ReadFD of nothing = %d, %v, want 0, EAGAIN", n, errno)
	}
	far.Write([]byte("hello, world"))
	if n, errno := ReadFD(fd, p); n != 10 || errno != 0 || string(p[:n]) != "hello, wor" {
		t.Errorf("ReadFD = %d %q, %v, want 10 bytes", n, p[:n], errno)
	}
	if n, errno := ReadFD(fd, p); n != 2 || errno != 0 || string(p[:n]) != "ld" {
		t.Errorf("ReadFD = %d %q, %v, want the rest", n, p[:n], errno)
	}
	far.Close()
	if n, errno := ReadFD(fd, p); n != 0 || errno != 0 {
		t.Errorf("ReadFD at the end = %d, %v, want 0 and no error", n, errno)
	}
}

func TestWriteFDWritesItsViewsInOrderInOneCall(t *testing.T) {
	fd, near, far := pair(t)
	var want []byte
	views := make([][]byte, MaxViews)
	for i := range views {
		views[i] = bytes.Repeat([]byte{byte('a' + i)}, i) // the first is empty
		want = append(want, views[i]...)
	}
	if n, errno := WriteFD(fd, views); n != len(want) || errno != 0 {
		t.Errorf("WriteFD = %d, %v, want %d", n, errno, len(want))
	}
	if n, errno := WriteFD(fd, [][]byte{[]byte("one view")}); n != 8 || errno != 0 {
		t.Errorf("WriteFD of one view = %d, %v, want 8", n, errno)
	}
	near.CloseWrite()
	got, err := io.ReadAll(far)
	if err != nil || string(got) != string(want)+"one view" {
		t.Errorf("the peer read %q, %v, want %q", got, err, string(want)+"one view")
	}
}

func TestWriteFDTakesPartAndThenNothingWhenTheSocketIsFull(t *testing.T) {
	for name, views := range map[string][][]byte{
		"one view":  {make([]byte, 10<<20)},
		"two views": {make([]byte, 10<<20), make([]byte, 10<<20)},
	} {
		t.Run(name, func(t *testing.T) {
			fd, _, _ := pair(t)
			total := 0
			for _, v := range views {
				total += len(v)
			}
			if n, errno := WriteFD(fd, views); n <= 0 || n >= total || errno != 0 {
				t.Fatalf("WriteFD = %d, %v, want a part of %d", n, errno, total)
			}
			for {
				n, errno := WriteFD(fd, views)
				if errno == syscall.EAGAIN && n == 0 {
					return
				}
				if errno != 0 || n == 0 {
					t.Fatalf("WriteFD to a full socket = %d, %v, want 0, EAGAIN", n, errno)
				}
			}
		})
	}
}

func TestWriteFDToAPeerThatIsGoneIsEPIPE(t *testing.T) {
	fd, _, far := pair(t)
	far.Close()
	for _, views := range [][][]byte{{[]byte("x")}, {[]byte("x"), []byte("y")}} {
		if n, errno := WriteFD(fd, views); n != 0 || errno != syscall.EPIPE {
			t.Errorf("WriteFD of %d views = %d, %v, want 0, EPIPE", len(views), n, errno)
		}
	}
}

func TestReadsAndWritesOfDescriptorsAllocateNothing(t *testing.T) {
	fd, _, far := pair(t)
	farConn, _ := Descriptor(far)
	var farFD uintptr
	farConn.Control(func(fd uintptr) { farFD = fd })
	p := make([]byte, 100)
	one, two := [][]byte{[]byte("x")}, [][]byte{[]byte("x"), []byte("y")}
	got := testing.AllocsPerRun(100, func() {
		WriteFD(fd, one)
		WriteFD(fd, two)
		ReadFD(farFD, p)
	})
	if got != 0 {
		t.Errorf("allocations = %v, want 0", got)
	}
}

func TestDescriptorFindsStreamSocketsOfPackageNetOnly(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	tcp, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer tcp.Close()
	udp, err := net.Dial("udp", "127.0.0.1:9")
	if err != nil {
		t.Fatal(err)
	}
	defer udp.Close()
	datagrams, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(t.TempDir(), "s"), Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer datagrams.Close()
	pipe, other := net.Pipe()
	defer pipe.Close()
	defer other.Close()
	_, unix, _ := pair(t)

	for name, test := range map[string]struct {
		nc   net.Conn
		want bool
	}{
		"tcp":            {tcp, true},
		"unix":           {unix, true},
		"udp":            {udp, false},
		"unix datagrams": {datagrams, false},
		"pipe":           {pipe, false},
		"a wrapper":      {struct{ *net.TCPConn }{tcp.(*net.TCPConn)}, false},
		"nothing":        {nil, false},
	} {
		if rc, ok := Descriptor(test.nc); ok != test.want || (rc != nil) != test.want {
			t.Errorf("Descriptor of %s = %v, %v, want %v", name, rc, ok, test.want)
		}
	}
}

func TestQuietSeesBytesAndEndsWithoutTakingThem(t *testing.T) {
	for _, test := range []struct {
		name string
		do   func(c *net.TCPConn)
		want bool
	}{
		{"nothing", func(c *net.TCPConn) {}, true},
		{"a byte", func(c *net.TCPConn) { c.Write([]byte("x")) }, false},
		{"the end", func(c *net.TCPConn) { c.CloseWrite() }, false},
		{"a reset", func(c *net.TCPConn) { c.SetLinger(0); c.Close() }, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			ln, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer ln.Close()
			ours, err := net.Dial("tcp", ln.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer ours.Close()
			theirs, err := ln.Accept()
			if err != nil {
				t.Fatal(err)
			}
			defer theirs.Close()
			test.do(theirs.(*net.TCPConn)) // on loopback it is there when this returns
			raw, _ := Descriptor(ours)
			raw.Control(func(fd uintptr) {
				if got := Quiet(fd); got != test.want {
					t.Errorf("Quiet = %v, want %v", got, test.want)
				}
			})
			if test.name == "a byte" {
				if n, err := ours.Read(make([]byte, 2)); n != 1 || err != nil {
					t.Errorf("Read = %d, %v, want 1, nil", n, err)
				}
			}
		})
	}
}

func TestReadFDAndWriteFDNeverBlockOnADescriptorThatBlocks(t *testing.T) {
	fd, _, _ := pair(t)
	if err := syscall.SetNonblock(int(fd), false); err != nil { // as another process may
		t.Fatal(err)
	}
	if n, errno := ReadFD(fd, make([]byte, 10)); n != 0 || errno != syscall.EAGAIN {
		t.Errorf("ReadFD of nothing = %d, %v, want 0, EAGAIN", n, errno)
	}
	for _, views := range [][][]byte{{make([]byte, 64<<10)}, {make([]byte, 64<<10), make([]byte, 64<<10)}} {
		for {
			n, errno := WriteFD(fd, views)
			if errno == syscall.EAGAIN {
				break
			}
			if n == 0 || errno != 0 {
				t.Fatalf("WriteFD = %d, %v, want EAGAIN once the kernel is full", n, errno)
			}
		}
	}
}
