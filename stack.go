package eventloop

import (
	"bytes"
	"reflect"
	"runtime"
	"strings"
)

// userFrame returns function and source line of the frame in a stack trace that tells
// the application most: the innermost one that belongs neither to this package nor to
// the standard library. It is "" if there is none.
func userFrame(stack []byte) (fn, place string) {
	lines := strings.Split(string(stack), "\n")
	for i := 0; i+1 < len(lines); i++ {
		file, ok := strings.CutPrefix(lines[i+1], "\t")
		if !ok || strings.HasPrefix(lines[i], "created by ") {
			continue
		}
		fn = lines[i]
		if end := strings.LastIndexByte(fn, '('); end > 0 { // the arguments
			fn = fn[:end]
		}
		file, _, _ = strings.Cut(file, " +0x")
		if strings.HasPrefix(fn, "main.") || !isOwn(fn) && !isStandard(file) {
			return fn, file
		}
	}
	return "", ""
}

var ownPath = reflect.TypeFor[Loop]().PkgPath()

// isOwn reports whether a function is of this package or of its internal ones.
func isOwn(fn string) bool {
	rest, ok := strings.CutPrefix(fn, ownPath)
	return ok && (strings.HasPrefix(rest, ".") || strings.HasPrefix(rest, "/internal/"))
}

// standardSource is how the names of source files of the standard library begin: its
// directory, or nothing in a program that was built with -trimpath.
func standardSource() string {
	f, _ := runtime.CallersFrames([]uintptr{reflect.ValueOf(runtime.GC).Pointer()}).Next()
	dir, _, _ := strings.Cut(f.File, "runtime/mgc.go")
	return dir
}

// isStandard reports whether a source file is of the standard library. With -trimpath
// that is taken to be so if there is no dot before the first slash, as in
// runtime/mgc.go.
func isStandard(file string) bool {
	if dir := standardSource(); dir != "" {
		return strings.HasPrefix(file, dir)
	}
	first, _, _ := strings.Cut(file, "/")
	return !strings.Contains(first, ".")
}

// trimStack leaves out of the trace of a panic that was recovered what recovered it.
func trimStack(stack []byte) []byte {
	header, _, _ := bytes.Cut(stack, []byte("\n"))
	if i := bytes.Index(stack, []byte("\npanic(")); i >= 0 {
		return append(header[:len(header):len(header)], stack[i:]...)
	}
	return stack
}
