package config

import (
	"slices"
	"testing"
	"time"
)

// optional has optional keys, for which "not set" differs from zero.
type optional struct {
	Port    *int           `yaml:"port" min:"1" max:"65535"`
	Timeout *time.Duration `yaml:"timeout" min:"1s"`
	On      *bool          `yaml:"on"`
	Mode    *string        `yaml:"mode" enum:"fast,slow"`
	Below   struct {
		Name string `yaml:"name"`
	} `yaml:"below" override:"false"`

	given []string
}

func (o *optional) Given(key string) { o.given = append(o.given, key) }

func TestOptionalKeys(t *testing.T) {
	t.Parallel()
	const text = "x-n: &none\nx-t: &off false\nport: 25\ntimeout:\non: *off\nmode: *none\nbelow: {name: a}\n"
	var got optional
	doc, problems := Parse("o.yaml", []byte(text), &got)
	problems = doc.Locate(append(problems, Check(&got, "")...))
	if len(problems) > 0 {
		t.Fatalf("problems: %v", problems)
	}
	if got.Port == nil || *got.Port != 25 || got.On == nil || *got.On || got.Timeout != nil || got.Mode != nil {
		t.Errorf("%+v", got)
	}
	if want := []string{"port", "on", "below"}; !slices.Equal(got.given, want) {
		t.Errorf("given: %v, want %v", got.given, want)
	}

	got = optional{}
	doc, problems = Parse("o.yaml", []byte("port: 0\ntimeout: 5ms\nmode: warp\n"), &got,
		Overrides("O_", []string{"O_BELOW_NAME=x", "O_ON=true"}))
	var texts []string
	for _, p := range doc.Locate(append(problems, Check(&got, "")...)) {
		texts = append(texts, p.Error())
	}
	if want := []string{
		"o.yaml:1:7: port: want 1 to 65535, got 0",
		"o.yaml:2:10: timeout: want at least 1s, got 5ms",
		"o.yaml:3:7: mode: want fast or slow, got warp",
		"O_BELOW_NAME: is not a setting: see docs/configuration.md for all settings",
	}; !slices.Equal(texts, want) {
		t.Errorf("problems: %q", texts)
	}
	if got.On == nil || !*got.On {
		t.Error("a variable does not set an optional key")
	}
}
