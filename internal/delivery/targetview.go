package delivery

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/certpost/certpost/internal/config"
	"github.com/certpost/certpost/internal/legible"
	"github.com/certpost/certpost/internal/mailhost"
	"github.com/certpost/certpost/internal/secrets"
	"github.com/certpost/certpost/internal/smtp"
	"github.com/certpost/certpost/internal/verdict"
)

// Targets returns all targets, including disabled ones, in the order in which they
// are defined.
func (i Inspector) Targets() []verdict.TargetView {
	defs := i.courier.book.Current()
	var all []verdict.TargetView
	for _, t := range defs.targets {
		all = append(all, defs.view(t))
	}
	return all
}

// Target returns the view of the target that has an id, or had it before; false if there is none.
func (i Inspector) Target(id string) (verdict.TargetView, bool) {
	defs := i.courier.book.Current()
	t, known := defs.Find(id)
	if !known {
		return verdict.TargetView{}, false
	}
	return defs.view(t), true
}

// remark is what is known of a target besides its definition.
type remark struct {
	where    string // file:line; "" for targets made by code
	warnings []string
}

// remark records for each target where it is defined and its warnings. It is called
// before the definitions are used.
func (d *Definitions) remark(origins []origin, problems []config.Problem) {
	d.remarks = make(map[string]remark, len(d.targets))
	d.views.Clear()
	for i, from := range origins {
		var r remark
		if line, _ := from.doc.At(from.path); line > 0 {
			r.where = fmt.Sprintf("%s:%d", from.doc.Name(), line)
		}
		for _, p := range problems {
			if rest, within := strings.CutPrefix(p.Path, from.path); within && (from.path == "" || rest == "" || rest[0] == '.' || rest[0] == '[') &&
				p.Severity == config.Warning && (p.File == "" || p.File == from.doc.Name()) {
				r.warnings = append(r.warnings, strings.TrimPrefix(strings.TrimPrefix(rest, ".")+": ", ": ")+p.Message)
			}
		}
		d.remarks[d.targets[i].ID] = r
	}
}

// Remark records where the targets are defined, and their warnings, if the caller
// read them from the list targets of doc. It is called before the definitions are used.
func (d *Definitions) Remark(doc *config.Document, problems []config.Problem) {
	origins := make([]origin, len(d.targets))
	for i := range origins {
		origins[i] = origin{doc, fmt.Sprintf("targets[%d]", i)}
	}
	d.remark(origins, problems)
}

// view returns a target as it is shown. It is made once and shared: the caller must
// not change it.
func (d *Definitions) view(t *Target) verdict.TargetView {
	known, ok := d.views.Load(t.ID)
	if !ok {
		if defined := d.byID[t.ID]; defined != nil {
			t = defined // not a copy that was changed for one mail
		}
		known, _ = d.views.LoadOrStore(t.ID, d.newView(t))
	}
	return known.(verdict.TargetView)
}

func (d *Definitions) newView(t *Target) verdict.TargetView {
	v := verdict.TargetView{
		ID: t.ID, FormerIDs: t.FormerIDs, Type: t.Type, Disabled: t.Disabled, Lane: t.lane, Payload: t.Payload,
		To: slices.Concat(t.To, t.CC, t.BCC), Where: d.remarks[t.ID].where, Warnings: d.remarks[t.ID].warnings,
	}
	for _, relay := range d.relays[t.ID] {
		if t.onHost() {
			v.Host = t.Host
			continue
		}
		v.Relays = append(v.Relays, smtp.RelayName(relay.Host, relay.Port))
	}
	var untouched Target
	untouched.SetDefaults()
	given := func(key string, value, unset reflect.Value) bool {
		return t.given[key] || t.given == nil && !reflect.DeepEqual(value.Interface(), unset.Interface())
	}
	r := rows{from: d.sources[t.ID]}
	of, unset := reflect.ValueOf(t).Elem(), reflect.ValueOf(&untouched).Elem()
	for _, s := range config.Settings(of.Type()) {
		if !t.has(s.Name) {
			continue
		}
		value := of.FieldByIndex(s.Index)
		r.add(s.Name, value, given(s.Name, value, unset.FieldByIndex(s.Index)))
	}
	v.Rows, v.Version = r.shown(), versionOf(d.relays[t.ID])
	return v
}

// version identifies the content of a target's definition, so that attempts can be
// compared.
func (d *Definitions) version(t *Target) string { return d.view(t).Version }

// versionOf returns 8 hexadecimal digits that are the same for the same settings of a
// target and its fallbacks, whether they are set in the target, in a rule, or by default.
func versionOf(relays []*Target) string {
	hash := sha256.New()
	for i, relay := range relays {
		for _, s := range config.Settings(reflect.TypeFor[Target]()) {
			if s.Name == "fallback" || i > 0 && !fallbackKeys[s.Name] || !relay.has(s.Name) {
				continue
			}
			var r rows
			r.add(s.Name, reflect.ValueOf(relay).Elem().FieldByIndex(s.Index), true)
			for _, setting := range r.all {
				fmt.Fprintf(hash, "%d %q %q\n", i, setting.key, setting.text)
			}
		}
		if i == 0 && relay.words != nil {
			fmt.Fprintf(hash, "templates %q\n", relay.words.digest)
		}
	}
	return hex.EncodeToString(hash.Sum(nil)[:4])
}

// rows are settings as text.
type rows struct {
	all  []setting
	from map[string]string // key -> path of the rule or default that gave it
}

// setting is one setting as text.
type setting struct {
	key, text string
	from      string // the path of the rule or default that gave it; "" for the target itself
	unset     bool   // nothing sets it: it has its default
}

// shown returns the settings for display, each on one line that is not too long.
func (r *rows) shown() (all []verdict.TargetRow) {
	for _, s := range r.all {
		row := verdict.TargetRow{Key: s.key, Value: legible.Clean(s.text, maxRow), Default: s.unset}
		if s.from != "" {
			row.Value += " (from " + s.from + ")"
		}
		all = append(all, row)
	}
	return all
}

// add adds a row for a setting, or for a mapping one for each of its keys. An empty
// value gets no row.
func (r *rows) add(key string, v reflect.Value, given bool) {
	if v.Kind() == reflect.Pointer {
		if v.IsNil() {
			return
		}
		v = v.Elem()
	}
	text, plain := settingText(v.Interface())
	switch {
	case plain && text == "":
	case plain:
		r.all = append(r.all, setting{key, text, r.from[key], !given && r.from[key] == ""})
	case v.Kind() == reflect.Struct:
		for _, s := range config.Settings(v.Type()) {
			r.add(config.Join(key, s.Name), v.FieldByIndex(s.Index), true)
		}
	case v.Kind() == reflect.Slice:
		for i := range v.Len() {
			r.add(fmt.Sprintf("%s[%d]", key, i), v.Index(i), true)
		}
	}
}

// settingText returns a value as text; plain is false for a value with keys of
// its own. A secret is shown as its reference, which does not contain it.
func settingText(v any) (text string, plain bool) {
	switch v := v.(type) {
	case secrets.Ref:
		if v.IsZero() {
			return "", true
		}
		return v.String(), true
	case Passphrase:
		if v.IsZero() {
			return "", true
		}
		return v.String(), true
	case Text:
		if !v.Ref.IsZero() {
			return v.Ref.String(), true
		}
		return v.Plain, true
	case time.Duration:
		return config.Written(v), true
	case []string:
		return strings.Join(v, ", "), true
	case map[string]secrets.Ref:
		var pairs []string
		for name, ref := range v {
			pairs = append(pairs, name+"="+ref.String())
		}
		slices.Sort(pairs)
		return strings.Join(pairs, ", "), true
	case map[string]string:
		var pairs []string
		for name, value := range v {
			pairs = append(pairs, name+"="+value)
		}
		slices.Sort(pairs)
		return strings.Join(pairs, ", "), true
	case mailhost.Command:
		return strings.Join(v, " "), true
	case mailhost.Mode:
		if v == 0 {
			return "", true
		}
		return v.String(), true
	case string:
		return v, true
	case bool, int:
		return fmt.Sprint(v), true
	}
	return "", false
}

// maxRow limits a value that is shown, in bytes: 50 addresses of ordinary length.
const maxRow = 4000
