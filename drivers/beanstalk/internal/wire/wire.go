// Package wire encodes the commands and decodes the replies of beanstalkd, protocol 1.12.
// It does no I/O.
package wire

import (
	"strconv"
	"strings"
)

// MaxTube is the maximum length of the name of a tube, in bytes.
const MaxTube = 200

// ValidTube reports whether name is a valid name of a tube.
func ValidTube(name string) bool {
	if name == "" || len(name) > MaxTube || name[0] == '-' {
		return false
	}
	for i := range len(name) {
		c := name[i]
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
		case strings.IndexByte("-+/;.$_()", c) >= 0:
		default:
			return false
		}
	}
	return true
}

// AppendPut appends a put command with its body.
func AppendPut(dst []byte, priority, delay, ttr uint32, body []byte) []byte {
	dst = Append(dst, "put", uint64(priority), uint64(delay), uint64(ttr), uint64(len(body)))
	dst = append(dst, body...)
	return append(dst, "\r\n"...)
}

// Append appends a command with numbers as its arguments.
func Append(dst []byte, command string, numbers ...uint64) []byte {
	dst = append(dst, command...)
	return appendNumbers(dst, numbers)
}

// AppendTube appends a command whose first argument is the name of a tube, which must be
// valid.
func AppendTube(dst []byte, command, tube string, numbers ...uint64) []byte {
	dst = append(dst, command...)
	dst = append(dst, ' ')
	dst = append(dst, tube...)
	return appendNumbers(dst, numbers)
}

func appendNumbers(dst []byte, numbers []uint64) []byte {
	for _, n := range numbers {
		dst = append(dst, ' ')
		dst = strconv.AppendUint(dst, n, 10)
	}
	return append(dst, "\r\n"...)
}

// A Kind is the first word of a reply.
type Kind uint8

// The kinds of replies, with the fields of Reply that are set for each.
const (
	Inserted       Kind = iota + 1 // ID
	Buried                         // ID, or none
	Using                          // Tube
	Reserved                       // ID, Body
	DeadlineSoon                   //
	TimedOut                       //
	Deleted                        //
	Released                       //
	Touched                        //
	Watching                       // Count
	NotIgnored                     //
	Found                          // ID, Body
	Kicked                         // Count, or none
	OK                             // Body
	Paused                         //
	NotFound                       //
	Draining                       //
	JobTooBig                      //
	ExpectedCRLF                   //
	OutOfMemory                    //
	InternalError                  //
	BadFormat                      //
	UnknownCommand                 //
	kinds
)

// A form describes the arguments that follow the first word.
type form uint8

const (
	bare form = iota
	idForm
	maybeID
	countForm
	maybeCount
	tubeForm
	bodyForm
	idAndBody
)

var words = [kinds]struct {
	word string
	form form
}{
	Inserted:       {"INSERTED", idForm},
	Buried:         {"BURIED", maybeID},
	Using:          {"USING", tubeForm},
	Reserved:       {"RESERVED", idAndBody},
	DeadlineSoon:   {"DEADLINE_SOON", bare},
	TimedOut:       {"TIMED_OUT", bare},
	Deleted:        {"DELETED", bare},
	Released:       {"RELEASED", bare},
	Touched:        {"TOUCHED", bare},
	Watching:       {"WATCHING", countForm},
	NotIgnored:     {"NOT_IGNORED", bare},
	Found:          {"FOUND", idAndBody},
	Kicked:         {"KICKED", maybeCount},
	OK:             {"OK", bodyForm},
	Paused:         {"PAUSED", bare},
	NotFound:       {"NOT_FOUND", bare},
	Draining:       {"DRAINING", bare},
	JobTooBig:      {"JOB_TOO_BIG", bare},
	ExpectedCRLF:   {"EXPECTED_CRLF", bare},
	OutOfMemory:    {"OUT_OF_MEMORY", bare},
	InternalError:  {"INTERNAL_ERROR", bare},
	BadFormat:      {"BAD_FORMAT", bare},
	UnknownCommand: {"UNKNOWN_COMMAND", bare},
}

// kindOf maps the first word of a reply to its kind.
var kindOf = func() map[string]Kind {
	m := make(map[string]Kind, kinds)
	for k, w := range words {
		if w.word != "" {
			m[w.word] = Kind(k)
		}
	}
	return m
}()

// String returns the word of k.
func (k Kind) String() string {
	if k >= kinds {
		return ""
	}
	return words[k].word
}

// A Reply is a reply of the server. Its Kind determines the fields that are set.
type Reply struct {
	Kind  Kind
	ID    uint64
	Count uint64
	Tube  string
	Body  []byte // not nil if the reply has a body; the caller owns it
}
