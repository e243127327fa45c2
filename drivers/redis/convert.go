package redis

import (
	"errors"
	"fmt"
	"math"
	"reflect"
	"strconv"
	"strings"
	"sync"

	"github.com/onloop/eventloop/drivers/redis/internal/resp"
)

// As converts a reply to a T:
//
//   - string and []byte: from a text or a number
//   - integers, floats: from a number, or a text that is a number
//   - bool: from a bool, the integers 1 and 0, the texts "1" and "0", and the status OK
//   - slices: from an array, a set, or a map, with alternating keys and values
//   - maps: from a map, an array with alternating keys and values, or an array of pairs
//   - structs: like maps, with the names of fields as keys, in any case. The tag
//     `redis:"name"` gives a field another name, and `redis:"-"` excludes it. Keys
//     without a field are ignored
//   - pointers: nil for a nil reply
//   - any: nil, string, int64, float64, bool, []any or map[string]any. An error that
//     is an element becomes an [*Error]
//   - [Reply]: the unchanged reply
//
// An error reply is returned as an [*Error], and a nil reply as [ErrNil], unless T can
// represent nil. Defined types with these underlying types are converted, too. Versions 2
// and 3 of the protocol have different reply types for some commands; As returns the same
// value for both.
func As[T any](r Reply) (T, error) { return decoder[T]()(r.v) }

// decoder returns the function that converts to T.
func decoder[T any]() func(v resp.Value) (T, error) {
	var f any
	switch any(*new(T)).(type) {
	case Reply:
		f = toReply
	case string:
		f = toString
	case int64:
		f = toInt
	case float64:
		f = toFloat
	case bool:
		f = toBool
	case []string:
		f = toStrings
	case []byte:
		f = toBytes
	case struct{}:
		f = toNothing
	default:
		return decodeReflect[T]
	}
	return f.(func(v resp.Value) (T, error))
}

func decodeReflect[T any](v resp.Value) (T, error) {
	var t T
	err := convert(v, reflect.ValueOf(&t).Elem())
	return t, err
}

func toReply(v resp.Value) (Reply, error) {
	if v.Kind == resp.Error {
		return Reply{}, &Error{v.Str}
	}
	return Reply{v}, nil
}

// toNothing is for commands whose reply only reports success.
func toNothing(v resp.Value) (struct{}, error) {
	if v.Kind == resp.Error {
		return struct{}{}, &Error{v.Str}
	}
	return struct{}{}, nil
}

// mismatch returns the error for a reply that does not fit the requested type.
func mismatch(v resp.Value, to string) error {
	switch v.Kind {
	case resp.Error:
		return &Error{v.Str}
	case resp.Null:
		return ErrNil
	case resp.Bulk, resp.Simple:
		return fmt.Errorf("redis: reply %.40q is no %s", v.Str, to)
	}
	return fmt.Errorf("redis: reply of type %s is no %s", Kind(v.Kind), to)
}

func toString(v resp.Value) (string, error) {
	switch v.Kind {
	case resp.Bulk, resp.Simple, resp.Verbatim, resp.BigNumber:
		return v.Str, nil
	case resp.Int:
		return strconv.FormatInt(v.Int, 10), nil
	case resp.Double:
		return formatFloat(v.Float()), nil
	case resp.Bool:
		return strconv.FormatInt(v.Int, 10), nil
	}
	return "", mismatch(v, "string")
}

func toBytes(v resp.Value) ([]byte, error) {
	s, err := toString(v)
	if err != nil {
		return nil, err
	}
	return []byte(s), nil
}

func toInt(v resp.Value) (int64, error) {
	switch v.Kind {
	case resp.Int, resp.Bool:
		return v.Int, nil
	case resp.Double:
		if f := v.Float(); f == math.Trunc(f) && math.Abs(f) < 1<<63 {
			return int64(f), nil
		}
	case resp.Bulk, resp.Simple, resp.BigNumber:
		if n, err := strconv.ParseInt(v.Str, 10, 64); err == nil {
			return n, nil
		}
	}
	return 0, mismatch(v, "integer")
}

func toFloat(v resp.Value) (float64, error) {
	switch v.Kind {
	case resp.Double:
		return v.Float(), nil
	case resp.Int:
		return float64(v.Int), nil
	case resp.Bulk, resp.Simple, resp.BigNumber:
		if f, err := strconv.ParseFloat(v.Str, 64); err == nil {
			return f, nil
		}
	}
	return 0, mismatch(v, "number")
}

func toBool(v resp.Value) (bool, error) {
	switch {
	case (v.Kind == resp.Bool || v.Kind == resp.Int) && v.Int&^1 == 0:
		return v.Int == 1, nil
	case v.Kind == resp.Simple && v.Str == "OK":
		return true, nil
	case v.Kind == resp.Bulk && (v.Str == "1" || v.Str == "0"):
		return v.Str == "1", nil
	}
	return false, mismatch(v, "bool")
}

func toStrings(v resp.Value) ([]string, error) {
	if !hasElems(v.Kind) {
		return nil, mismatch(v, "array")
	}
	s := make([]string, len(v.Elems))
	for i, e := range v.Elems {
		var err error
		if s[i], err = toString(e); err != nil {
			return nil, err
		}
	}
	return s, nil
}

func hasElems(k resp.Kind) bool {
	return k == resp.Array || k == resp.Set || k == resp.Map || k == resp.Push
}

// toAny returns the natural Go value of a reply.
func toAny(v resp.Value) any {
	switch v.Kind {
	case resp.Null:
		return nil
	case resp.Error:
		return &Error{v.Str}
	case resp.Int:
		return v.Int
	case resp.Double:
		return v.Float()
	case resp.Bool:
		return v.Int != 0
	case resp.Map:
		m := make(map[string]any, len(v.Elems)/2)
		for i := 0; i+1 < len(v.Elems); i += 2 {
			k, err := toString(v.Elems[i])
			if err != nil {
				k = Reply{v.Elems[i]}.String()
			}
			m[k] = toAny(v.Elems[i+1])
		}
		return m
	case resp.Array, resp.Set, resp.Push:
		s := make([]any, len(v.Elems))
		for i, e := range v.Elems {
			s[i] = toAny(e)
		}
		return s
	}
	return v.Str
}

var replyType = reflect.TypeFor[Reply]()

// convert sets to, which can be set, to v.
func convert(v resp.Value, to reflect.Value) error {
	if v.Kind == resp.Error {
		return &Error{v.Str}
	}
	return convertElem(v, to)
}

// convertElem is like convert, for an element. The element may be an error if to can hold
// an error.
func convertElem(v resp.Value, to reflect.Value) error {
	t := to.Type()
	switch t.Kind() {
	case reflect.Interface:
		if t.NumMethod() > 0 {
			return unsupported(t)
		}
		if a := toAny(v); a != nil {
			to.Set(reflect.ValueOf(a))
		}
		return nil
	case reflect.Pointer:
		if v.Kind == resp.Null {
			return nil
		}
		p := reflect.New(t.Elem())
		if err := convertElem(v, p.Elem()); err != nil {
			return err
		}
		to.Set(p)
		return nil
	case reflect.Struct:
		if t == replyType {
			to.Set(reflect.ValueOf(Reply{v}))
			return nil
		}
		return convertStruct(v, to)
	case reflect.Slice:
		if t.Elem().Kind() == reflect.Uint8 {
			p, err := toBytes(v)
			to.Set(reflect.MakeSlice(t, len(p), len(p)))
			copy(to.Bytes(), p)
			return err
		}
		return convertSlice(v, to)
	case reflect.Map:
		return convertMap(v, to)
	}
	return convertScalar(v, to)
}

func unsupported(t reflect.Type) error {
	return fmt.Errorf("redis: a reply cannot be converted to %s", t)
}

func convertScalar(v resp.Value, to reflect.Value) error {
	switch t := to.Type(); t.Kind() {
	case reflect.String:
		s, err := toString(v)
		to.SetString(s)
		return err
	case reflect.Bool:
		b, err := toBool(v)
		to.SetBool(b)
		return err
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		n, err := toInt(v)
		if err == nil && to.OverflowInt(n) {
			return fmt.Errorf("redis: reply %d overflows %s", n, t)
		}
		to.SetInt(n)
		return err
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		n, err := toUint(v)
		if err == nil && to.OverflowUint(n) {
			return fmt.Errorf("redis: reply %d overflows %s", n, t)
		}
		to.SetUint(n)
		return err
	case reflect.Float32, reflect.Float64:
		f, err := toFloat(v)
		to.SetFloat(f)
		return err
	default:
		return unsupported(t)
	}
}

func toUint(v resp.Value) (uint64, error) {
	if v.Kind == resp.Bulk || v.Kind == resp.Simple || v.Kind == resp.BigNumber {
		if n, err := strconv.ParseUint(v.Str, 10, 64); err == nil {
			return n, nil
		}
		return 0, mismatch(v, "unsigned integer")
	}
	n, err := toInt(v)
	if err == nil && n < 0 {
		err = fmt.Errorf("redis: reply %d is no unsigned integer", n)
	}
	return uint64(n), err
}

func convertSlice(v resp.Value, to reflect.Value) error {
	if !hasElems(v.Kind) {
		return mismatch(v, "array")
	}
	s := reflect.MakeSlice(to.Type(), len(v.Elems), len(v.Elems))
	for i, e := range v.Elems {
		if err := convertElem(e, s.Index(i)); err != nil {
			return err
		}
	}
	to.Set(s)
	return nil
}

var errOdd = errors.New("redis: reply with a key and no value")

// pairs calls f with each key and value of v.
func pairs(v resp.Value, f func(key, value resp.Value) error) error {
	if !hasElems(v.Kind) {
		return mismatch(v, "map")
	}
	elems := v.Elems
	if v.Kind != resp.Map && arePairs(elems) {
		for _, e := range elems {
			if err := f(e.Elems[0], e.Elems[1]); err != nil {
				return err
			}
		}
		return nil
	}
	if len(elems)%2 != 0 {
		return errOdd
	}
	for i := 0; i < len(elems); i += 2 {
		if err := f(elems[i], elems[i+1]); err != nil {
			return err
		}
	}
	return nil
}

// arePairs reports whether all elements are arrays of two.
func arePairs(elems []resp.Value) bool {
	for _, e := range elems {
		if e.Kind != resp.Array || len(e.Elems) != 2 {
			return false
		}
	}
	return true
}

func convertMap(v resp.Value, to reflect.Value) error {
	t := to.Type()
	m := reflect.MakeMapWithSize(t, len(v.Elems)/2)
	err := pairs(v, func(key, value resp.Value) error {
		k, e := reflect.New(t.Key()).Elem(), reflect.New(t.Elem()).Elem()
		if err := convertScalar(key, k); err != nil {
			return err
		}
		if err := convertElem(value, e); err != nil {
			return err
		}
		m.SetMapIndex(k, e)
		return nil
	})
	if err == nil {
		to.Set(m)
	}
	return err
}

func convertStruct(v resp.Value, to reflect.Value) error {
	fields := fieldsOf(to.Type())
	return pairs(v, func(key, value resp.Value) error {
		name, err := toString(key)
		if err != nil {
			return err
		}
		i, ok := fields[strings.ToLower(name)]
		if !ok || value.Kind == resp.Null {
			return nil
		}
		if err := convertElem(value, to.Field(i)); err != nil {
			return fmt.Errorf("%w (field %s)", err, to.Type().Field(i).Name)
		}
		return nil
	})
}

var structs sync.Map // reflect.Type to map[string]int

// fieldsOf returns the indexes of the exported fields of t, by their names in lower
// case.
func fieldsOf(t reflect.Type) map[string]int {
	if m, ok := structs.Load(t); ok {
		return m.(map[string]int)
	}
	m := make(map[string]int)
	for i := range t.NumField() {
		f := t.Field(i)
		name, _, _ := strings.Cut(f.Tag.Get("redis"), ",")
		if !f.IsExported() || name == "-" {
			continue
		}
		if name == "" {
			name = f.Name
		}
		m[strings.ToLower(name)] = i
	}
	structs.Store(t, m)
	return m
}
