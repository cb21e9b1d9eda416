package main

import (
	"errors"
	"io/fs"
	"os"
	"slices"
	"strings"

	"github.com/certpost/certpost/internal/config"
)

const (
	defaultConfigFile = "certpost.yaml"
	overridePrefix    = "CERTPOST_"
	configVariable    = "CERTPOST_CONFIG" // the path of the configuration file
	natsURLFlag       = "--nats-url"      // the flag that overrides nats.url
)

// withFlag returns the environment with the value of --nats-url under the flag's own name, so that
// whatever reads the configuration from it knows where the value came from. A variable with that
// name, which a shell cannot set, has no effect.
func withFlag(env []string, natsURL string) []string {
	env = slices.DeleteFunc(slices.Clone(env), func(v string) bool { return strings.HasPrefix(v, natsURLFlag+"=") })
	if natsURL != "" {
		env = append(env, natsURLFlag+"="+natsURL)
	}
	return env
}

// loadConfig reads the configuration and the targets and returns all problems at
// once; if one of them is an error, the rest of the result may only be shown, not
// used. An empty path means the path in CERTPOST_CONFIG, then certpost.yaml if it
// exists; otherwise every setting has its default and there are no targets. env is
// the result of os.Environ.
func loadConfig(path string, env []string) (*Config, *config.Document, []config.Problem) {
	cfg, doc, problems := readConfig(path, env)
	problems = doc.Locate(append(problems, cfg.openBook(configPath(path, env), env)...))
	if cfg.Book != nil && cfg.TargetsDir+cfg.TargetsFile == "" {
		cfg.Book.Current().Remark(doc, problems)
	}
	return cfg, doc, problems
}

// loadConnection is loadConfig for commands that talk to the running program. They
// need no targets: errors in targets, relays and templates, with which the running program
// keeps its old definitions, must not stop an ACME client's hook from publishing.
func loadConnection(path string, env []string) (*Config, []config.Problem) {
	cfg, doc, problems := readConfig(path, env)
	problems = slices.DeleteFunc(problems, func(p config.Problem) bool {
		return strings.HasPrefix(p.Path, "targets") || strings.HasPrefix(p.Path, "relays") || strings.HasPrefix(p.Path, "delivery.templates")
	})
	return cfg, doc.Locate(problems)
}

// readConfig reads the configuration without targets_dir and targets_file.
func readConfig(path string, env []string) (*Config, *config.Document, []config.Problem) {
	cfg := defaultConfig()
	options := []config.Option{config.Variables(env), config.Overrides(overridePrefix, env, configVariable)}
	for _, variable := range env {
		if url, ok := strings.CutPrefix(variable, natsURLFlag+"="); ok {
			options = append(options, config.Flag(natsURLFlag, "nats.url", url))
		}
	}
	named := path != ""
	path = configPath(path, env)
	var doc *config.Document
	var problems []config.Problem
	if path == "" {
		doc, problems = config.Parse("", nil, cfg, options...)
	} else {
		doc, problems = config.Load(path, cfg, options...)
	}
	if !named {
		fromVariable(path, env, problems)
	}
	cfg.HTTP.file = path
	cfg.HTTP.again = func() (*HTTPConfig, []config.Problem) {
		next, doc, problems := readConfig(path, env)
		return &next.HTTP, doc.Locate(problems)
	}
	problems = append(problems, config.Check(cfg, "")...)
	for _, section := range []string{"alerts", "alerts.mail", "alerts.webhook"} {
		if doc.Empty(section) {
			problems = append(problems, config.Problem{Path: section, Severity: config.Warning, Message: "is empty, and sends nothing: give alerts.mail or alerts.webhook, or leave it out"})
		}
	}
	return cfg, doc, append(problems, cfg.validate()...)
}

// fromVariable adds to the problem of a whole file that its path is from CERTPOST_CONFIG.
func fromVariable(path string, env []string, problems []config.Problem) {
	for i, p := range problems {
		if p.File == path && p.Line == 0 && p.Path == "" && slices.Contains(env, configVariable+"="+path) {
			problems[i].Message += " (its path is that of " + configVariable + ")"
		}
	}
}

func configPath(path string, env []string) string {
	if path != "" {
		return path
	}
	for _, variable := range env {
		if path, ok := strings.CutPrefix(variable, configVariable+"="); ok && path != "" {
			return path
		}
	}
	if _, err := os.Stat(defaultConfigFile); errors.Is(err, fs.ErrNotExist) {
		return ""
	}
	return defaultConfigFile
}
