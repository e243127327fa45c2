// Package exampletest checks that the entry points of a package have examples. The root
// package and the drivers, which are modules of their own below it, share it.
package exampletest

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// Rules are what is particular to a package.
type Rules struct {
	Own    []string // types whose methods need an example of their own each
	NotRun []string // examples that are compiled only, because they need a server
}

// What completes an interface, or is the same for every handle.
var needsNoExample = map[string]bool{
	"Error": true, "Is": true, "Unwrap": true, "Timeout": true, "Temporary": true, "String": true, "Ref": true, "Unref": true,
}

// Check reports what lacks an example in the package of the current directory. Every
// exported function has an example of its own, and so has every method of the types in
// rules.Own; every other exported method is called by an example. All examples are run,
// that is, they say what they print, except for those in rules.NotRun.
func Check(t testing.TB, rules Rules) {
	t.Helper()
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	examples, calls := make(map[string]bool), make(map[string]bool)
	var entries []*ast.FuncDecl
	for _, name := range files {
		f, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range f.Decls {
			fn, ok := d.(*ast.FuncDecl)
			switch {
			case !ok:
			case !strings.HasSuffix(name, "_test.go"):
				if fn.Name.IsExported() {
					entries = append(entries, fn)
				}
			case strings.HasPrefix(fn.Name.Name, "Example"):
				examples[topic(fn)] = true
				ast.Inspect(fn, func(n ast.Node) bool {
					if s, ok := n.(*ast.SelectorExpr); ok {
						calls[s.Sel.Name] = true
					}
					return true
				})
				if hasOutput(f, fn) == slices.Contains(rules.NotRun, fn.Name.Name) {
					t.Errorf("%s: either it has an output, or the test knows that it is not run", fn.Name.Name)
				}
			}
		}
	}
	for _, fn := range entries {
		name, of := fn.Name.Name, receiver(fn)
		switch {
		case of == "":
			if !examples[name] {
				t.Errorf("the function %s has no example", name)
			}
		case !ast.IsExported(of) || needsNoExample[name]:
		case slices.Contains(rules.Own, of) && !examples[of+"_"+name]:
			t.Errorf("%s.%s has no example", of, name)
		case !calls[name]:
			t.Errorf("no example calls %s.%s", of, name)
		}
	}
}

// topic returns what fn is an example of, without what tells several of one topic apart.
func topic(fn *ast.FuncDecl) string {
	topic := strings.TrimPrefix(fn.Name.Name, "Example")
	if i := strings.LastIndexByte(topic, '_'); i >= 0 && !ast.IsExported(topic[i+1:]) {
		topic = topic[:i]
	}
	return topic
}

// receiver returns the name of the type that fn is a method of, or "".
func receiver(fn *ast.FuncDecl) string {
	if fn.Recv == nil {
		return ""
	}
	t := fn.Recv.List[0].Type
	if p, ok := t.(*ast.StarExpr); ok {
		t = p.X
	}
	switch g := t.(type) {
	case *ast.IndexExpr:
		t = g.X
	case *ast.IndexListExpr:
		t = g.X
	}
	id, _ := t.(*ast.Ident)
	return id.Name
}

// hasOutput reports whether an example says what it prints.
func hasOutput(f *ast.File, fn *ast.FuncDecl) bool {
	for _, c := range f.Comments {
		if c.Pos() > fn.Body.Lbrace && c.End() < fn.Body.Rbrace {
			if text := strings.ToLower(c.Text()); strings.HasPrefix(text, "output:") || strings.HasPrefix(text, "unordered output:") {
				return true
			}
		}
	}
	return false
}
