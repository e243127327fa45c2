package resp

import "strconv"

// AppendHeader appends the header of a command of n words.
func AppendHeader(dst []byte, n int) []byte {
	dst = append(dst, '*')
	dst = strconv.AppendInt(dst, int64(n), 10)
	return append(dst, '\r', '\n')
}

// AppendString appends a word.
func AppendString(dst []byte, s string) []byte {
	dst = appendLength(dst, len(s))
	dst = append(dst, s...)
	return append(dst, '\r', '\n')
}

// AppendBytes appends a word.
func AppendBytes(dst, p []byte) []byte {
	dst = appendLength(dst, len(p))
	dst = append(dst, p...)
	return append(dst, '\r', '\n')
}

func appendLength(dst []byte, n int) []byte {
	dst = append(dst, '$')
	if n < 10 {
		return append(dst, byte('0'+n), '\r', '\n')
	}
	dst = strconv.AppendInt(dst, int64(n), 10)
	return append(dst, '\r', '\n')
}

// AppendInt appends a number as a word.
func AppendInt(dst []byte, n int64) []byte {
	var buf [20]byte
	return AppendBytes(dst, strconv.AppendInt(buf[:0], n, 10))
}

// AppendUint appends a number as a word.
func AppendUint(dst []byte, n uint64) []byte {
	var buf [20]byte
	return AppendBytes(dst, strconv.AppendUint(buf[:0], n, 10))
}

// AppendFloat appends a number as a word, in the shortest form that preserves its value.
func AppendFloat(dst []byte, f float64, bits int) []byte {
	var buf [32]byte
	return AppendBytes(dst, strconv.AppendFloat(buf[:0], f, 'g', -1, bits))
}

// AppendArg appends an argument: a string, a []byte, an integer, a float, or a bool, which
// becomes 1 or 0. A []string, a [][]byte and a []any become one word per element. AppendArg
// returns the number of words. If it cannot encode a, ok is false.
func AppendArg(dst []byte, a any) (_ []byte, words int, ok bool) {
	switch a := a.(type) {
	case string:
		return AppendString(dst, a), 1, true
	case []byte:
		return AppendBytes(dst, a), 1, true
	case int:
		return AppendInt(dst, int64(a)), 1, true
	case int64:
		return AppendInt(dst, a), 1, true
	case int32:
		return AppendInt(dst, int64(a)), 1, true
	case int16:
		return AppendInt(dst, int64(a)), 1, true
	case int8:
		return AppendInt(dst, int64(a)), 1, true
	case uint:
		return AppendUint(dst, uint64(a)), 1, true
	case uint64:
		return AppendUint(dst, a), 1, true
	case uint32:
		return AppendUint(dst, uint64(a)), 1, true
	case uint16:
		return AppendUint(dst, uint64(a)), 1, true
	case uint8:
		return AppendUint(dst, uint64(a)), 1, true
	case float64:
		return AppendFloat(dst, a, 64), 1, true
	case float32:
		return AppendFloat(dst, float64(a), 32), 1, true
	case bool:
		if a {
			return append(dst, "$1\r\n1\r\n"...), 1, true
		}
		return append(dst, "$1\r\n0\r\n"...), 1, true
	case []string:
		for _, s := range a {
			dst = AppendString(dst, s)
		}
		return dst, len(a), true
	case [][]byte:
		for _, p := range a {
			dst = AppendBytes(dst, p)
		}
		return dst, len(a), true
	case []any:
		for _, e := range a {
			n := 0
			if dst, n, ok = AppendArg(dst, e); !ok {
				return dst, words, false
			}
			words += n
		}
		return dst, words, true
	}
	return dst, 0, false
}

// AppendCommand appends a command. If it cannot encode an argument, bad is the index of that
// argument, and dst is returned unchanged. Otherwise bad is -1.
func AppendCommand(dst []byte, args ...any) (_ []byte, bad int) {
	begin := len(dst)
	words := len(args)
	dst = AppendHeader(dst, words)
	first := len(dst)
	n := 0
	for i, a := range args {
		var m int
		var ok bool
		if dst, m, ok = AppendArg(dst, a); !ok {
			return dst[:begin], i
		}
		n += m
	}
	if n == words {
		return dst, -1
	}
	// An argument is not exactly one word, so the number of words is another one, and the
	// header may have another length.
	header := AppendHeader(nil, n)
	body := len(dst) - first
	dst = append(dst, header...) // makes room
	copy(dst[begin+len(header):], dst[first:first+body])
	copy(dst[begin:], header)
	return dst[:begin+len(header)+body], -1
}
