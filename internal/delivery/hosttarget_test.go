package delivery

import (
	"slices"
	"strings"
	"testing"

	"github.com/certpost/certpost/internal/config"
	"github.com/certpost/certpost/internal/mailhost"
)

// hostTarget reads one target from lines.
func hostTarget(t *testing.T, lines ...string) (*Definitions, []string) {
	t.Helper()
	var list struct {
		Targets []Target `yaml:"targets"`
	}
	text := "targets:\n- " + strings.Join(lines, "\n  ") + "\n"
	doc, problems := config.Parse("t.yaml", []byte(text), &list)
	if config.Failed(problems) {
		var texts []string
		for _, p := range problems {
			texts = append(texts, strings.TrimPrefix(p.Error(), "t.yaml:"))
		}
		return nil, texts
	}
	defs, found := Relays{}.Define(list.Targets)
	var texts []string
	for _, p := range doc.Locate(append(problems, found...)) {
		texts = append(texts, strings.TrimPrefix(p.Error(), "t.yaml:"))
	}
	return defs, texts
}

const verified = `post_deploy_verify: {endpoint: "127.0.0.1:2525", protocol: smtp}`

func TestHostTargetDefaults(t *testing.T) {
	t.Parallel()
	for kind, want := range map[string]map[string]string{
		"postfix": {"cert_path": "/etc/postfix/certs/cert.pem", "key_path": "/etc/postfix/certs/key.pem", "validate_command": "postfix check", "reload_command": "postfix reload"},
		"dovecot": {"cert_path": "/etc/dovecot/certs/cert.pem", "key_path": "/etc/dovecot/certs/key.pem", "validate_command": "doveconf -n", "reload_command": "doveadm reload"},
	} {
		defs, problems := hostTarget(t, "id: mx", "type: "+kind, "host: mx1.example.com", verified)
		if defs == nil || len(problems) != 1 || !strings.Contains(problems[0], "warning: targets[0].key_path: certificate and key are two files") {
			t.Fatalf("%s: %v", kind, problems)
		}
		if lanes := defs.Lanes(); !slices.Equal(lanes, []string{"host-mx1_example_com"}) || len(defs.Relays()) != 0 {
			t.Errorf("%s: lanes %v, relays %v", kind, lanes, defs.Relays())
		}
		for key, value := range map[string]string{"cert_mode": "0644", "key_mode": "0600", "command_timeout": "30s", "backup_retention": "3",
			"post_deploy_verify.timeout": "10s", "post_deploy_verify.attempts": "5", "post_deploy_verify.backoff": "250ms", "post_deploy_verify.max_backoff": "5s"} {
			want[key] = value
		}
		view := defs.view(defs.All()[0])
		if view.Host != "mx1.example.com" || view.Relays != nil || view.Type != kind {
			t.Errorf("%s is shown as %+v", kind, view)
		}
		for _, row := range view.Rows {
			if value, ok := want[row.Key]; ok && value != row.Value {
				t.Errorf("%s: %s is %q, want %q", kind, row.Key, row.Value, value)
			} else if _, mails := map[string]bool{"port": true, "timeout": true, "from_address": true, "max_message_bytes": true, "payload": true}[row.Key]; mails {
				t.Errorf("%s shows %s, which is a key of mails", kind, row.Key)
			}
			delete(want, row.Key)
		}
		if len(want) > 0 {
			t.Errorf("%s does not show %v", kind, want)
		}
	}

	defs, problems := hostTarget(t, "id: mx", "type: postfix", "host: mx1", "cert_path: /a/x.pem", "key_path: /a/x.pem", "key_mode: \"0640\"", "key_group: \"12\"",
		"validate_command: []", "reload_command: [sh, -c, 'a | b']", "backup_retention: 0", `post_deploy_verify: {endpoints: ["imap://127.0.0.1:1143", "127.0.0.1:465"], server_name: mx1.example.com}`)
	if defs == nil || problems != nil {
		t.Fatal(problems)
	}
	d := defs.All()[0].deployment()
	if d.CertPath != d.KeyPath || d.KeyMode != 0o640 || d.KeyGroup != "12" || len(d.ValidateCommand) != 0 || !slices.Equal(d.ReloadCommand, []string{"sh", "-c", "a | b"}) || d.BackupRetention != 0 ||
		len(d.Verify.Endpoints) != 2 || d.Verify.Endpoints[0].Protocol != "imap" || d.Verify.Endpoints[0].Address != "127.0.0.1:1143" || d.Verify.ServerName != "mx1.example.com" {
		t.Errorf("the deployment is %+v", d)
	}
	if defs, _ := hostTarget(t, "id: mx", "type: postfix", "host: mx1", `post_deploy_verify: {enabled: false, endpoint: "127.0.0.1:25"}`); defs == nil || len(defs.All()[0].deployment().Verify.Endpoints) != 0 {
		t.Error("enabled: false does not switch the verification off")
	}
}

// Problems name the line, the key and what to write instead.
func TestHostTargetProblems(t *testing.T) {
	t.Parallel()
	base := []string{"id: mx", "type: postfix", "host: mx1", "cert_path: /a/x.pem", "key_path: /a/x.pem", verified}
	for name, test := range map[string]struct {
		replace string // a line of base, by its key
		lines   []string
		want    string
	}{
		"none":                  {want: ""},
		"no host":               {replace: "host:", want: "2:3: targets[0].host: is required: the name of the mail host, as in mail_host of the process that runs there"},
		"a key of mails":        {lines: []string{"from_address: a@example.com"}, want: "8:17: targets[0].from_address: is a key of targets of type smtp, and this one is of type postfix: leave it out, or correct type"},
		"and its nearest":       {lines: []string{"payload: pem"}, want: "targets[0].payload: is a key of targets of type smtp, file, and this one is of type postfix"},
		"timeout":               {lines: []string{"timeout: 10s"}, want: "targets[0].timeout: is a key of targets of type smtp"},
		"unknown":               {lines: []string{"cert_pth: /x"}, want: `unknown key "cert_pth": did you mean cert_path?`},
		"unknown verification":  {replace: "post_deploy_verify:", lines: []string{"post_deploy_verify: {endpiont: x}"}, want: `unknown key "endpiont": did you mean endpoint?`},
		"relative":              {replace: "cert_path:", lines: []string{"cert_path: x.pem"}, want: `targets[0].cert_path: "x.pem" must be absolute`},
		"open key":              {lines: []string{`key_mode: "0644"`}, want: "8:13: targets[0].key_mode: 0644 must let the owner read, at most the group read too"},
		"no quotes":             {lines: []string{`key_mode: 0640`}, want: "put it in quotes"},
		"a shell":               {lines: []string{"reload_command: postfix reload | logger"}, want: `8:19: targets[0].reload_command: the command has '|', which only a shell understands`},
		"no port":               {replace: "post_deploy_verify:", lines: []string{"post_deploy_verify: {endpoint: localhost}"}, want: `targets[0].post_deploy_verify.endpoint: "localhost" is not host:port`},
		"no protocol":           {replace: "post_deploy_verify:", lines: []string{`post_deploy_verify: {endpoint: "localhost:2525"}`}, want: `targets[0].post_deploy_verify.protocol: is required for localhost:2525: no protocol is usual`},
		"wrong protocol":        {replace: "post_deploy_verify:", lines: []string{`post_deploy_verify: {endpoints: ["http://localhost:80"]}`}, want: `targets[0].post_deploy_verify.endpoints[0]: "http" is unknown`},
		"no endpoint":           {replace: "post_deploy_verify:", lines: []string{"post_deploy_verify: {enabled: true}"}, want: "targets[0].post_deploy_verify.endpoint: is required"},
		"not verified":          {replace: "post_deploy_verify:", want: "warning: targets[0].post_deploy_verify: nothing checks that the certificate is served"},
		"retention":             {lines: []string{"backup_retention: 101"}, want: "targets[0].backup_retention: want 0 to 100, got 101"},
		"a file without a path": {replace: "type:", lines: []string{"type: file", "chain_path: /a/x.pem"}, want: "targets[0].chain_path: is the same file"},
		"unknown type":          {replace: "type:", lines: []string{"type: exim"}, want: "targets[0].type: want smtp, postfix, dovecot or file, got exim"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			lines := slices.DeleteFunc(slices.Clone(base), func(l string) bool { return test.replace != "" && strings.HasPrefix(l, test.replace) })
			_, got := hostTarget(t, append(lines, test.lines...)...)
			if all := strings.Join(got, "\n"); test.want == "" && all != "" || !strings.Contains(all, test.want) {
				t.Errorf("got\n%s\nwant\n%s", all, test.want)
			}
		})
	}
	if _, got := hostTarget(t, "id: f", "type: file", "host: mx1"); !strings.Contains(strings.Join(got, "\n"), "targets[0].cert_path: is required") {
		t.Errorf("a target of type file without paths: %v", got)
	}
	file := []string{"id: f", "type: file", "host: mx1", "cert_path: /a/x", "payload: jks", verified}
	for want, more := range map[string]string{"targets[0].keystore_password: is required by payload jks": "backup_retention: 3",
		"targets[0].key_path: payload jks is one file": "key_path: /a/y"} {
		if _, got := hostTarget(t, append(slices.Clone(file), more)...); !strings.Contains(strings.Join(got, "\n"), want) {
			t.Errorf("%s: %v, want %s", more, got, want)
		}
	}
	if _, got := hostTarget(t, append(slices.Clone(file), "keystore_password: {env: X}", "reload: signal")...); !strings.Contains(strings.Join(got, "\n"), "did you mean reload_command?") {
		t.Errorf("reload of a file: %v", got)
	}
	many := slices.DeleteFunc(slices.Clone(base), func(l string) bool { return l == verified })
	if _, got := hostTarget(t, append(many, `post_deploy_verify: {endpoint: "127.0.0.1:25", attempts: 99}`)...); len(got) != 1 || !strings.Contains(got[0], "want 0 to 20, got 99") {
		t.Errorf("attempts: %v", got)
	}
	if defs, got := hostTarget(t, append(slices.Clone(file), "keystore_password: {env: X}")...); defs == nil || defs.All()[0].KeyPath != "/a/x" {
		t.Errorf("a key store: %v", got)
	}
	if _, got := hostTarget(t, "id: m", "host: smtp.example.com", "from_address: a@example.com", "to: [b@example.com]", "cert_path: /x"); !strings.Contains(strings.Join(got, "\n"),
		"targets[0].cert_path: is a key of targets of type postfix, dovecot, file, and this one is of type smtp") {
		t.Errorf("a mail with cert_path: %v", got)
	}
	if _, got := hostTarget(t, "id: m", "host: smtp.example.com"); !strings.Contains(strings.Join(got, "\n"), "from_address: is required") || !strings.Contains(strings.Join(got, "\n"), "to: is required") {
		t.Errorf("a mail without addresses: %v", got)
	}
}

// The lanes of mail hosts and relays never have the same name, however the hosts are called.
func TestLanesOfHostsAreTheirOwn(t *testing.T) {
	t.Parallel()
	for host, want := range map[string]string{"mx1": "host-mx1", "MX1.Example.com": "host-mx1_example_com"} {
		if got := HostLane(host); got != want {
			t.Errorf("%s has lane %s, want %s", host, got, want)
		}
	}
	seen := map[string]string{}
	for _, host := range []string{"mx1", "mx1-25", "25", "mx1_example_com", "mx1.example.com", strings.Repeat("a", 60), strings.Repeat("a", 61) + ".b"} {
		lane := HostLane(host)
		if other, taken := seen[lane]; taken || len(lane) > maxLaneLen || !strings.HasPrefix(lane, "host-") {
			t.Errorf("%s and %s have lane %s", host, other, lane)
		}
		seen[lane] = host
	}
	for _, relay := range []string{"host", "host-mx1", "relay-host"} {
		if lane := laneOf(relay, 25); strings.HasPrefix(lane, "host-") || seen[lane] != "" {
			t.Errorf("relay %s has lane %s, which looks like that of a mail host", relay, lane)
		}
	}
}

// DANE is for programs to which mail servers deliver.
func TestDANEOfTargets(t *testing.T) {
	t.Parallel()
	paths := []string{"id: x", "host: mx1", "cert_path: /a/x.pem", "key_path: /a/x.pem"}
	for _, test := range []struct {
		lines []string
		want  string
	}{
		{[]string{"type: postfix", verified}, "hold"},
		{[]string{"type: postfix", verified, "dane: warn"}, "warn"},
		{[]string{"type: dovecot", verified}, ""},
		{[]string{"type: file", verified}, "hold"},
		{[]string{"type: file", `post_deploy_verify: {endpoint: "127.0.0.1:25"}`}, "hold"},
		{[]string{"type: file", `post_deploy_verify: {endpoint: "127.0.0.1:443", protocol: tls}`}, "off"},
		{[]string{"type: file", `post_deploy_verify: {enabled: false, endpoint: "127.0.0.1:25"}`}, "off"},
	} {
		defs, problems := hostTarget(t, append(slices.Clone(paths), test.lines...)...)
		if defs == nil || defs.All()[0].DANE != test.want {
			t.Errorf("%v: %v, want dane: %s", test.lines, problems, test.want)
		}
	}
	for line, want := range map[string]string{
		"dane: no":          "targets[0].dane: want hold, warn or off",
		"dane_names: [a b]": "targets[0].dane_names[0]: ",
	} {
		if _, got := hostTarget(t, append(slices.Clone(paths), "type: postfix", verified, line)...); !strings.Contains(strings.Join(got, "\n"), want) {
			t.Errorf("%s: %v, want %s", line, got, want)
		}
	}
	if _, got := hostTarget(t, append(slices.Clone(paths), "type: dovecot", verified, "dane: hold")...); !strings.Contains(strings.Join(got, "\n"), "targets[0].dane: is a key of targets of type postfix, file") {
		t.Errorf("a key that Dovecot does not have: %v", got)
	}
	if _, got := hostTarget(t, append(slices.Clone(paths), "type: postfix", verified, "dane: off", "dane_names: [mx1.example.com]")...); !strings.Contains(strings.Join(got, "\n"), "has no effect with dane: off") {
		t.Errorf("names without effect: %v", got)
	}
}

// The keys that say how the program learns of new files.
func TestReloadOfTargets(t *testing.T) {
	t.Parallel()
	base := []string{"id: x", "host: mx1", "cert_path: /a/x.pem", "key_path: /a/x.pem", `post_deploy_verify: {endpoint: "127.0.0.1:993"}`}
	for kind, want := range map[string]mailhost.Daemon{
		"postfix": {Name: "master", PIDFile: "/var/spool/postfix/pid/master.pid"}, "dovecot": {Name: "dovecot", PIDFile: "/run/dovecot/master.pid"},
	} {
		defs, problems := hostTarget(t, append(slices.Clone(base), "type: "+kind, "reload: signal")...)
		if defs == nil || len(problems) > 0 {
			t.Fatalf("%s: %v", kind, problems)
		}
		if d := defs.All()[0].deployment(); d.Signal != want || len(d.ReloadCommand) > 0 {
			t.Errorf("%s: %+v, and runs %v", kind, d.Signal, d.ReloadCommand)
		}
		if defs, _ := hostTarget(t, append(slices.Clone(base), "type: "+kind)...); defs == nil || !defs.All()[0].deployment().Signal.IsZero() {
			t.Errorf("%s gets a signal that nobody asked for", kind)
		}
	}
	defs, problems := hostTarget(t, append(slices.Clone(base), "type: dovecot", "reload: signal", "pid_file: /x.pid", "local_name: mx2.example.com")...)
	if defs == nil {
		t.Fatal(problems)
	}
	if d := defs.All()[0].deployment(); d.Signal.PIDFile != "/x.pid" || d.LocalName != "mx2.example.com" || d.Verify.ServerName != "mx2.example.com" {
		t.Errorf("%+v", d)
	}
	for lines, want := range map[string]string{
		"type: postfix\nreload: signal\nreload_command: postfix reload": "targets[0].reload_command: is not run with reload: signal",
		"type: postfix\npid_file: /x":                                   "targets[0].pid_file: is for reload: signal",
		"type: postfix\nreload: signal\npid_file: x":                    "targets[0].pid_file: \"x\" must be absolute",
		"type: postfix\nsni_map_command: postmap x":                     "targets[0].sni_map_command: builds the database of sni_map",
		"type: postfix\nsni_map: hash:/x":                               "targets[0].post_deploy_verify.server_name: is required with sni_map",
		"type: postfix\nsni_map: /x":                                    "targets[0].sni_map: want the type and the absolute path",
		"type: postfix\nlocal_name: a.example":                          "targets[0].local_name: is a key of targets of type dovecot",
		"type: dovecot\nsni_map: hash:/x":                               "targets[0].sni_map: is a key of targets of type postfix",
		"type: file\nreload: signal":                                    "targets[0].reload: is a key of targets of type postfix, dovecot",
		"type: dovecot\nlocal_name: a b":                                "targets[0].local_name: ",
	} {
		if _, got := hostTarget(t, append(slices.Clone(base), strings.Split(lines, "\n")...)...); !strings.Contains(strings.Join(got, "\n"), want) {
			t.Errorf("%s: %v, want %s", lines, got, want)
		}
	}
	if _, got := hostTarget(t, "id: x", "host: mx1", "type: dovecot", "local_name: a.example", `post_deploy_verify: {endpoint: "127.0.0.1:24", server_name: b.example}`); !strings.Contains(strings.Join(got, "\n"), "local_name: does not apply to LMTP") ||
		!strings.Contains(strings.Join(got, "\n"), `"b.example" is not local_name`) {
		t.Errorf("local_name with LMTP and another name: %v", got)
	}
}

// Fault: two targets on one host have a file in common. Result: an error of the
// configuration: the second program would never be reloaded.
func TestTargetsMayNotShareFiles(t *testing.T) {
	t.Parallel()
	for want, lines := range map[string][]string{
		"targets[1].key_path: /a/x.pem is also a file of targets[0] (a)":  {"cert_path: /a/y.pem", "key_path: /a/x.pem"},
		"targets[1].cert_path: /a/x.pem is also a file of targets[0] (a)": {"cert_path: /a/x.pem", "key_path: /a/x.key"},
	} {
		both := append([]string{"id: a", "type: postfix", "host: mx1", "cert_path: /a/x.pem", "key_path: /a/x.pem", verified + "\n- id: b", "type: dovecot", `post_deploy_verify: {endpoint: "127.0.0.1:993"}`}, lines...)
		if _, got := hostTarget(t, append(both, "host: mx1")...); !strings.Contains(strings.Join(got, "\n"), want) {
			t.Errorf("got %q, want %s", got, want)
		}
		for _, other := range []string{"host: mx2", "host: mx1\n  disabled: true"} {
			if defs, got := hostTarget(t, append(both, other)...); defs == nil {
				t.Errorf("%s: %q", other, got)
			}
		}
	}
}
