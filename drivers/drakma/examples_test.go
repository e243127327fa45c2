package drakma_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"strings"
	"testing"
)

// needsNoExample has methods that complete an interface, or are the same everywhere.
var needsNoExample = map[string]bool{"Error": true, "Is": true, "Unwrap": true, "Timeout": true, "String": true, "Ref": true, "Unref": true}

// isMethodOfUnexported reports whether fn belongs to a type that is not exported.
func isMethodOfUnexported(fn *ast.FuncDecl) bool {
	if fn.Recv == nil {
		return false
	}
	t := fn.Recv.List[0].Type
	if p, ok := t.(*ast.StarExpr); ok {
		t = p.X
	}
	id, ok := t.(*ast.Ident)
	return ok && !id.IsExported()
}

// Every exported function has an example, and every exported method is called by one.
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
				if fn.Name.IsExported() && !needsNoExample[fn.Name.Name] && !isMethodOfUnexported(fn) {
					entries = append(entries, fn)
				}
			case strings.HasPrefix(fn.Name.Name, "Example"):
				examples[strings.TrimPrefix(fn.Name.Name, "Example")] = true
				ast.Inspect(fn, func(n ast.Node) bool {
					if s, ok := n.(*ast.SelectorExpr); ok {
						calls[s.Sel.Name] = true
					}
					return true
				})
			}
		}
	}
	for _, fn := range entries {
		name := fn.Name.Name
		if fn.Recv == nil && !examples[name] {
			t.Errorf("%s has no example", name)
		}
		if fn.Recv != nil && !calls[name] {
			t.Errorf("no example calls the method %s", name)
		}
	}
}
