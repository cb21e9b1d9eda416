package config

import (
	"reflect"
	"strings"
	"testing"
	"time"
)

var environ = []string{"HOST=smtp.example.com", "PORT=2525", "EMPTY=", "SECRET=hunter2", "WAIT=5m", "NOT_A_NUMBER=hunter2", "malformed"}

func TestExpand(t *testing.T) {
	t.Parallel()
	got, problems := parse(t, `
name: ${HOST}
port: ${PORT}
"on": "${ON:-true}"
timeout: "${WAIT}"
mode: '${MODE:-fast}'
hosts: ["${HOST}:${PORT}", $HOST, "$${HOST}", a$$b, "${EMPTY}", "${EMPTY:-x}", "${NONE:-}", "$", "a$"]
labels: {"${HOST}": "${HOST}"}
secret: ${SECRET}
`, Variables(environ))
	if len(problems) > 0 {
		t.Fatalf("problems:\n%s", strings.Join(problems, "\n"))
	}
	want := shape{
		Name: "smtp.example.com", Port: 2525, Ratio: 1, On: true, Timeout: 5 * time.Minute, Mode: "fast",
		Hosts:  []string{"smtp.example.com:2525", "$HOST", "${HOST}", "a$b", "", "x", "", "$", "a$"},
		Labels: map[string]string{"${HOST}": "smtp.example.com"},
	}
	if secret := got.Secret.text(); secret != "hunter2" {
		t.Errorf("secret %q", secret)
	}
	got.Secret = word{}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

func TestExpandProblems(t *testing.T) {
	t.Parallel()
	_, got := parse(t, `
name: ${NONE}
port: ${NOT_A_NUMBER}
mode: ${SECRET
timeout: ${1X}
hosts: ["${A B}", "${HOST:?no}"]
ratio: "${EMPTY}"
items: [{id: a, port: "${PORT}00"}]
`, Variables(environ))
	want := []string{
		"c.yaml:2:7: name: the environment variable NONE is not set: set it, or write ${NONE:-default}",
		"c.yaml:3:7: port: want a whole number, got ${NOT_A_NUMBER}",
		"c.yaml:4:7: mode: want ${NAME} or ${NAME:-default}; a dollar sign itself is written $$",
		"c.yaml:5:10: timeout: want ${NAME} or ${NAME:-default}; a dollar sign itself is written $$",
		"c.yaml:6:9: hosts[0]: want ${NAME} or ${NAME:-default}; a dollar sign itself is written $$",
		"c.yaml:6:19: hosts[1]: want ${NAME} or ${NAME:-default}; a dollar sign itself is written $$",
		"c.yaml:7:8: ratio: want a number, got ${EMPTY}",
		"c.yaml:8:23: items[0].port: want 1 to 65535",
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestOverrides(t *testing.T) {
	t.Parallel()
	got, problems := parse(t, "name: a\nport: 1\nhosts: [x, y]\ntls: {ca_file: a}\neither: {value: b}\n", Overrides("APP_", []string{
		"APP_NAME=b", "APP_PORT=587", "APP_ON=true", "APP_TIMEOUT=1m", "APP_RATIO=1.5", "APP_HOSTS=p, q,,r ",
		"APP_TLS_KEY_FILE=k", "APP_NESTED_GIVE_UP_AFTER=2h", "APP_NESTED_CA_FILE=c", "APP_NESTED_DEEPER_COUNT=-3",
		"APP_SECRET=a,b", "APP_EITHER_ENV=E", "APP_CONFIG=reserved", "OTHER_NAME=z", "APPNAME=z",
		"APP_SERVICE_HOST=10.0.0.1", "APP_SERVICE_PORT_HTTP=80", "APP_PORT_8080_TCP_ADDR=10.0.0.1", "APP_PORT_8080_TCP=tcp://10.0.0.1:8080",
	}, "APP_CONFIG"))
	if len(problems) > 0 {
		t.Fatalf("problems:\n%s", strings.Join(problems, "\n"))
	}
	if secret := got.Secret.text(); secret != "a,b" {
		t.Errorf("secret %q", secret)
	}
	want := shape{
		Name: "b", Port: 587, Ratio: 1.5, On: true, Timeout: time.Minute, Mode: "slow", Hosts: []string{"p", "q", "r"},
		TLS: &files{CAFile: "a", KeyFile: "k"}, Either: scalars{Env: "E"},
	}
	want.Nested.GiveUpAfter, want.Nested.Files.CAFile, want.Nested.Deeper.Count = 2*time.Hour, "c", -3
	got.Secret = word{}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

func TestOverrideProblems(t *testing.T) {
	t.Parallel()
	_, got := parse(t, "port: 1\nmode: slow\n", Overrides("APP_", []string{
		"APP_PROT=1", "APP_ITEMS=a", "APP_LABELS_ENV=x", "APP_PORT=high", "APP_TIMEOUT=5", "APP_MODE=fsat", "APP_NESTED_DEEPER_CUONT=1", "APP_RATIO=0.5", "APP_ON=",
	}))
	want := []string{
		"APP_ITEMS: is not a setting: see docs/configuration.md for all settings",
		"APP_LABELS_ENV: is not a setting: see docs/configuration.md for all settings",
		`APP_MODE: mode: want fast or slow`,
		"APP_NESTED_DEEPER_CUONT: is not a setting: did you mean APP_NESTED_DEEPER_COUNT?",
		`APP_ON: on: want true or false`,
		"APP_PORT: port: want a whole number",
		"APP_PROT: is not a setting: did you mean APP_PORT?",
		"APP_RATIO: ratio: want at least 1",
		"APP_TIMEOUT: timeout: want a duration such as 30s, 5m, 72h or 3d",
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// A flag overrides the setting and its variable, which is then not read, and is named where its
// value is wrong.
func TestFlags(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		value, want string
		port        int
	}{{"587", "", 587}, {"high", "--port: port: want a whole number", 0}} {
		got, problems := parse(t, "port: 1\n", Overrides("APP_", []string{"APP_PORT=wrong"}), Flag("--port", "port", test.value))
		if text := strings.Join(problems, "\n"); text != test.want || test.want == "" && got.Port != test.port {
			t.Errorf("%s: %q and port %d, want %q and %d", test.value, text, got.Port, test.want, test.port)
		}
	}
}

func TestLocate(t *testing.T) {
	t.Parallel()
	var into shape
	doc, problems := Parse("c.yaml", []byte("name: x\nnested:\n  ca_file: a\nitems:\n  - id: a\n    prot: 1\n  - id: 5\n"), &into,
		Overrides("APP_", []string{"APP_NESTED_CA_FILE=b", "APP_TLS_KEY_FILE=k"}))
	if len(problems) != 2 {
		t.Fatalf("problems: %q", texts(problems))
	}
	got := texts(doc.Locate([]Problem{
		{Path: "items[0].to[3]", Message: "inside what is not there"},
		{Path: "items[0].port", Message: "dropped: the key was misspelt"},
		{Path: "items[1].id", Message: "dropped: could not be read"},
		{Path: "nested.ca_file", Message: "from a variable"},
		{Path: "tls", Message: "a part is from a variable"},
		{Path: "nested", Message: "is in the document"},
		{Path: "itemsX", Message: "not to be taken for items"},
		{Path: "name", Message: "unwise", Severity: Warning},
		{Path: "name", Message: "unwise", Severity: Warning},
		{File: "other.yaml", Line: 7, Column: 1, Path: "name", Message: "is located already"},
	}))
	want := []string{
		"c.yaml:1:1: itemsX: not to be taken for items",
		"c.yaml:1:7: warning: name: unwise",
		"c.yaml:3:3: nested: is in the document",
		"c.yaml:5:5: items[0].to[3]: inside what is not there",
		"other.yaml:7:1: name: is located already",
		"APP_NESTED_CA_FILE: nested.ca_file: from a variable",
		"APP_TLS_KEY_FILE: tls: a part is from a variable",
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestOnly(t *testing.T) {
	t.Parallel()
	got, problems := parse(t, "prot: 1\nname: 5\nx-a: &a {id: a, port: 25}\nitems: [*a]\nmode: fast\n", Only("items"))
	if len(problems) > 0 {
		t.Fatalf("problems:\n%s", strings.Join(problems, "\n"))
	}
	want := shape{Port: 25, Ratio: 1, Timeout: 30 * time.Second, Mode: "slow", Items: []item{{ID: "a", Port: 25}}}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}
