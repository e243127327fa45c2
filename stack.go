package eventloop

import (
	"bytes"
	"reflect"
	"runtime"
	"strings"
)

// userFrame returns the function and the source line of the innermost frame of a stack
// trace that belongs neither to this package nor to the standard library. It returns "" if
// there is no such frame.
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

// isOwn reports whether a function belongs to this package or its internal packages.
func isOwn(fn string) bool {
	rest, ok := strings.CutPrefix(fn, ownPath)
	return ok && (strings.HasPrefix(rest, ".") || strings.HasPrefix(rest, "/internal/"))
}

// standardSource returns the directory of the source files of the standard library, or ""
// in a program that was built with -trimpath.
func standardSource() string {
	f, _ := runtime.CallersFrames([]uintptr{reflect.ValueOf(runtime.GC).Pointer()}).Next()
	dir, _, _ := strings.Cut(f.File, "runtime/mgc.go")
	return dir
}

// isStandard reports whether a source file belongs to the standard library. With -trimpath,
// it assumes so if there is no dot before the first slash, as in runtime/mgc.go.
func isStandard(file string) bool {
	if dir := standardSource(); dir != "" {
		return strings.HasPrefix(file, dir)
	}
	first, _, _ := strings.Cut(file, "/")
	return !strings.Contains(first, ".")
}

// trimStack removes from the trace of a recovered panic the frames of the recovering code.
func trimStack(stack []byte) []byte {
	header, _, _ := bytes.Cut(stack, []byte("\n"))
	if i := bytes.Index(stack, []byte("\npanic(")); i >= 0 {
		return append(header[:len(header):len(header)], stack[i:]...)
	}
	return stack
}
