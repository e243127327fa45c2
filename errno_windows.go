package eventloop

import (
	"syscall"

	"golang.org/x/sys/windows"
)

// winsock maps the errors of Winsock to the errors with the same name in package
// syscall. On Windows that package invents its own numbers for the names, and no system
// call returns them.
var winsock = map[syscall.Errno]syscall.Errno{
	windows.WSAEINTR:           syscall.EINTR,
	windows.WSAEBADF:           syscall.EBADF,
	windows.WSAEACCES:          syscall.EACCES,
	windows.WSAEFAULT:          syscall.EFAULT,
	windows.WSAEINVAL:          syscall.EINVAL,
	windows.WSAEMFILE:          syscall.EMFILE,
	windows.WSAEWOULDBLOCK:     syscall.EWOULDBLOCK,
	windows.WSAEINPROGRESS:     syscall.EINPROGRESS,
	windows.WSAEALREADY:        syscall.EALREADY,
	windows.WSAENOTSOCK:        syscall.ENOTSOCK,
	windows.WSAEDESTADDRREQ:    syscall.EDESTADDRREQ,
	windows.WSAEMSGSIZE:        syscall.EMSGSIZE,
	windows.WSAEPROTOTYPE:      syscall.EPROTOTYPE,
	windows.WSAENOPROTOOPT:     syscall.ENOPROTOOPT,
	windows.WSAEPROTONOSUPPORT: syscall.EPROTONOSUPPORT,
	windows.WSAESOCKTNOSUPPORT: syscall.ESOCKTNOSUPPORT,
	windows.WSAEOPNOTSUPP:      syscall.EOPNOTSUPP,
	windows.WSAEPFNOSUPPORT:    syscall.EPFNOSUPPORT,
	windows.WSAEAFNOSUPPORT:    syscall.EAFNOSUPPORT,
	windows.WSAEADDRINUSE:      syscall.EADDRINUSE,
	windows.WSAEADDRNOTAVAIL:   syscall.EADDRNOTAVAIL,
	windows.WSAENETDOWN:        syscall.ENETDOWN,
	windows.WSAENETUNREACH:     syscall.ENETUNREACH,
	windows.WSAENETRESET:       syscall.ENETRESET,
	windows.WSAECONNABORTED:    syscall.ECONNABORTED,
	windows.WSAECONNRESET:      syscall.ECONNRESET,
	windows.WSAENOBUFS:         syscall.ENOBUFS,
	windows.WSAEISCONN:         syscall.EISCONN,
	windows.WSAENOTCONN:        syscall.ENOTCONN,
	windows.WSAESHUTDOWN:       syscall.ESHUTDOWN,
	windows.WSAETOOMANYREFS:    syscall.ETOOMANYREFS,
	windows.WSAETIMEDOUT:       syscall.ETIMEDOUT,
	windows.WSAECONNREFUSED:    syscall.ECONNREFUSED,
	windows.WSAELOOP:           syscall.ELOOP,
	windows.WSAENAMETOOLONG:    syscall.ENAMETOOLONG,
	windows.WSAEHOSTDOWN:       syscall.EHOSTDOWN,
	windows.WSAEHOSTUNREACH:    syscall.EHOSTUNREACH,
	windows.WSAENOTEMPTY:       syscall.ENOTEMPTY,
	windows.WSAEUSERS:          syscall.EUSERS,
	windows.WSAEDQUOT:          syscall.EDQUOT,
	windows.WSAESTALE:          syscall.ESTALE,
	windows.WSAEREMOTE:         syscall.EREMOTE,
}

// portable returns the number of the error errno in package syscall.
func portable(errno syscall.Errno) syscall.Errno {
	if named, ok := winsock[errno]; ok {
		return named
	}
	return errno
}
