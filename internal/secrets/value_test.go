package secrets

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
	"github.com/rs/zerolog"
)

const canary = "Xq7-canary-9fK2"

// leaks returns the form in which text contains the canary, "" if it does not.
func leaks(text string) string {
	bytesList := strings.Trim(strings.ReplaceAll(fmt.Sprint([]byte(canary)), " ", ", "), "[]")
	for form, s := range map[string]string{
		"plain": canary, "hex": hex.EncodeToString([]byte(canary)), "HEX": strings.ToUpper(hex.EncodeToString([]byte(canary))),
		"base64":  base64.RawStdEncoding.EncodeToString([]byte(canary))[:18],
		"decimal": strings.ReplaceAll(bytesList, ",", ""), "decimals": bytesList,
	} {
		if strings.Contains(text, s) {
			return form
		}
	}
	return ""
}

func TestValueNeverPrints(t *testing.T) {
	t.Parallel()
	v := New([]byte(canary))
	type hidden struct {
		name  string
		value Value
		ptr   *Value
		list  []Value
		table map[string]Value
		any   any
		ref   Ref
		deep  *struct{ value Value }
	}
	h := hidden{
		name: "x", value: v, ptr: &v, list: []Value{v}, table: map[string]Value{"k": v}, any: v,
		ref: Ref{Value: v}, deep: &struct{ value Value }{v},
	}
	type shown struct {
		Name  string           `json:"name" yaml:"name" xml:"name"`
		Value Value            `json:"value" yaml:"value" xml:"value"`
		Ptr   *Value           `json:"ptr" yaml:"ptr" xml:"ptr"`
		List  []Value          `json:"list" yaml:"list" xml:"list"`
		Table map[string]Value `json:"table" yaml:"table" xml:"-"`
	}
	s := shown{Name: "x", Value: v, Ptr: &v, List: []Value{v}, Table: map[string]Value{"k": v}}
	secret := Secret{Value: v, Version: "3"}
	subjects := map[string]any{
		"value": v, "pointer": &v, "hidden": h, "hidden pointer": &h, "shown": s, "shown pointer": &s,
		"secret": secret, "ref": Ref{Value: v}, "ref pointer": &Ref{Value: v}, "slice": []Value{v}, "map": map[string]Value{"k": v},
		"map key": map[any]string{&v: "x"}, "wrapped error": fmt.Errorf("failed with %v: %w", v, errors.New("x")),
	}
	verbs := []string{"%v", "%+v", "%#v", "%T", "%t", "%b", "%c", "%d", "%o", "%O", "%q", "%x", "%X", "%U", "%e", "%E", "%f", "%F",
		"%g", "%G", "%s", "%p", "% x", "%+q", "%#x", "%20s", "%-20v", "%.40s", "%[1]v", "%!", "%w"}
	for name, subject := range subjects {
		for _, verb := range verbs {
			if form := leaks(fmt.Sprintf(verb, subject)); form != "" {
				t.Errorf("%s with %s leaks (%s)", name, verb, form)
			}
		}
		for encoder, encode := range map[string]func(any) ([]byte, error){
			"json": json.Marshal, "yaml": yaml.Marshal, "xml": xml.Marshal,
		} {
			// Some subjects cannot be encoded; then the error must not contain it either.
			out, err := encode(subject)
			if form := leaks(string(out) + fmt.Sprint(err)); form != "" {
				t.Errorf("%s as %s leaks (%s)", name, encoder, form)
			}
		}
		var log bytes.Buffer
		logger := zerolog.New(&log)
		logger.Info().Interface("a", subject).Any("b", subject).Str("c", fmt.Sprint(subject)).Object("d", v).EmbedObject(v).
			Stringer("e", v).Type("f", subject).Fields(map[string]any{"g": subject}).Err(fmt.Errorf("%v", subject)).Msgf("%v %s %+v", subject, subject, subject)
		console := zerolog.ConsoleWriter{Out: &log, NoColor: true}
		logger = zerolog.New(console)
		logger.Info().Interface("a", subject).Msg("x")
		slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "a", subject)
		slog.New(slog.NewTextHandler(&log, nil)).Info("x", "a", subject)
		if form := leaks(log.String()); form != "" {
			t.Errorf("%s in a log leaks (%s)", name, form)
		}
	}
}

func TestValueTellsThatItIsRedacted(t *testing.T) {
	t.Parallel()
	v := New([]byte(canary))
	encoded, err := json.Marshal(map[string]Value{"v": v})
	if err != nil || string(encoded) != `{"v":"[redacted]"}` {
		t.Errorf("json: %s, %v", encoded, err)
	}
	if got := fmt.Sprintf("%s|%d|%#v|%v", v, v, v, &v); got != "[redacted]|[redacted]|[redacted]|[redacted]" {
		t.Errorf("fmt: %s", got)
	}
	if v.String() != redacted || v.GoString() != redacted {
		t.Error("String or GoString returns another text")
	}
}

func TestValueKeepsAndGivesCopies(t *testing.T) {
	t.Parallel()
	mine := []byte(canary)
	v := New(mine)
	clear(mine)
	first := v.Reveal()
	if string(first) != canary {
		t.Fatal("clearing the caller's bytes changed the value")
	}
	clear(first)
	if string(v.Reveal()) != canary {
		t.Fatal("clearing a revealed copy changed the value")
	}
}

func TestValueZeroAndEqual(t *testing.T) {
	t.Parallel()
	var zero Value
	if !zero.IsZero() || !New(nil).IsZero() || !New([]byte{}).IsZero() || zero.Reveal() != nil {
		t.Error("a Value without a secret is not zero")
	}
	a, b := New([]byte("a")), New([]byte("b"))
	if a.IsZero() || !a.Equal(New([]byte("a"))) || a.Equal(b) || a.Equal(zero) || zero.Equal(a) || !zero.Equal(Value{}) {
		t.Error("Equal is wrong")
	}
}

func TestValueFromYAML(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"value: " + canary: canary, `value: "` + canary + `"`: canary,
		"value: |-\n  two\n  lines\n": "two\nlines", "value: 'it''s'": "it's", "value: ''": "", "value: \"0123\"": "0123",
	} {
		var ref Ref
		if err := yaml.Unmarshal([]byte(text), &ref); err != nil {
			t.Errorf("%q: %v", text, err)
			continue
		}
		if got := string(ref.Value.Reveal()); got != want {
			t.Errorf("%q gives %q, not %q", text, got, want)
		}
	}
	// A scalar in place of a reference is the value itself, usually a user name.
	var target struct{ Username, Password Ref }
	if err := yaml.Unmarshal([]byte("username: certs\npassword: {vault: {mount: secret, path: x, key: k, version: 3}}"), &target); err != nil {
		t.Fatal(err)
	}
	if string(target.Username.Value.Reveal()) != "certs" || target.Password.String() != "vault:secret/x#k@3" {
		t.Errorf("got %v, %v", target.Username, target.Password)
	}
	for _, text := range []string{"value: [" + canary + "]", "value: {" + canary + ": x}", "[" + canary + "]", "vault: {mount: [" + canary + "]}"} {
		var ref Ref
		err := yaml.Unmarshal([]byte(text), &ref)
		if err == nil || leaks(err.Error()) != "" {
			t.Errorf("%q: the error is %v", text, err)
		}
	}
}
