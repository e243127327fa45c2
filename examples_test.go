package eventloop_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"strings"
	"testing"
)

// What completes an interface, or is the same for every handle.
var needsNoExample = map[string]bool{
	"Error": true, "Is": true, "Unwrap": true, "Timeout": true, "Temporary": true, "String": true, "Ref": true, "Unref": true,
}

// Every exported function, and every method of Loop, has an example of its own; every
// other exported method is called by an example. All examples are run.
func TestEveryEntryPointHasAnExample(t *testing.T) {
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
				topic := strings.TrimPrefix(fn.Name.Name, "Example")
				if i := strings.LastIndexByte(topic, '_'); i >= 0 && !ast.IsExported(topic[i+1:]) {
					topic = topic[:i] // without what tells several of one topic apart
				}
				examples[topic] = true
				ast.Inspect(fn, func(n ast.Node) bool {
					if s, ok := n.(*ast.SelectorExpr); ok {
						calls[s.Sel.Name] = true
					}
					return true
				})
				if !hasOutput(f, fn) {
					t.Errorf("%s is not run: it has no output", fn.Name.Name)
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
		case of == "Loop" && !examples["Loop_"+name]:
			t.Errorf("Loop.%s has no example", name)
		case !calls[name]:
			t.Errorf("no example calls %s.%s", of, name)
		}
	}
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
	if g, ok := t.(*ast.IndexExpr); ok {
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
