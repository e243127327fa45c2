// Package smtpwire encodes and decodes SMTP and LMTP, without I/O: replies, the extensions of
// EHLO, addresses, commands, and the form of a mail in DATA. It follows RFC 5321, and RFC
// 2033 for LMTP.
//
// The functions that build commands do not check their arguments. The caller checks
// them first, with CheckAddress and the other functions whose names begin with Check:
// an argument that passes cannot contain CR, LF or NUL, and so cannot end a command.
package smtpwire
