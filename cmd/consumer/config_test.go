package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/config"
)

// load writes a configuration to a file called c.yaml, reads it, and returns its
// problems without the directory's name.
func load(t *testing.T, text string, env ...string) (*Config, []string) {
	t.Helper()
	dir := t.TempDir()
	path := filepath.Join(dir, "c.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg, doc, problems := loadConfig(path, append(env, "DIR="+dir))
	if cfg == nil || doc == nil {
		t.Fatal("no configuration")
	}
	var texts []string
	for _, p := range problems {
		texts = append(texts, strings.ReplaceAll(p.Error(), dir+"/", ""))
	}
	return cfg, texts
}

func TestConfigDefaults(t *testing.T) {
	t.Chdir(t.TempDir())
	cfg, _, problems := loadConfig("", nil)
	if len(problems) > 0 {
		t.Fatalf("problems without a configuration: %v", problems)
	}
	if cfg.DataDir != "./data" || cfg.NATS.Replicas != 1 || cfg.NATS.SyncInterval != "always" || cfg.HTTP.Listen != "127.0.0.1:8080" ||
		cfg.Delivery.Concurrency != 64 || cfg.Delivery.Retry != (RetryConfig{5 * time.Second, time.Hour, 2}) || cfg.Delivery.GiveUpAfter != 72*time.Hour ||
		cfg.Delivery.OnUnknownOutcome != "resend" || cfg.Events.Unmatched != "dead_letter" || cfg.Events.InvalidDates != "refuse" ||
		cfg.Delivery.ProductName != "Certpost" || cfg.Log.Level != "info" {
		t.Errorf("defaults: %+v", cfg)
	}
	if cfg.Book == nil || len(cfg.Book.Current().All()) != 0 {
		t.Error("without a configuration there are no targets")
	}

	if err := os.WriteFile("certpost.yaml", []byte("data_dir: here\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile("other.yaml", []byte("data_dir: there\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		path string
		env  []string
		want string
	}{
		{"", nil, "here"},
		{"other.yaml", nil, "there"},
		{"", []string{"CERTPOST_CONFIG=other.yaml"}, "there"},
		{"certpost.yaml", []string{"CERTPOST_CONFIG=other.yaml"}, "here"},
		{"", []string{"CERTPOST_CONFIG=", "CERTPOST_DATA_DIR=elsewhere"}, "elsewhere"},
	} {
		if cfg, _, problems := loadConfig(test.path, test.env); cfg.DataDir != test.want || len(problems) > 0 {
			t.Errorf("--config %q with %v: data_dir %s, %v", test.path, test.env, cfg.DataDir, problems)
		}
	}
	_, _, problems = loadConfig("absent.yaml", nil)
	if len(problems) != 1 || problems[0].Error() != "absent.yaml: does not exist" {
		t.Errorf("problems: %v", problems)
	}
}

func TestConfigProblems(t *testing.T) {
	t.Parallel()
	const target = "targets:\n  - {id: a, host: smtp.example.com, from_address: a@example.com, to: [b@example.com]}\n"
	tests := []struct {
		name, text string
		env        []string
		want       []string
	}{
		{"good", "data_dir: /var/lib/certpost\n" + target, nil, nil},
		{"unknown keys", "nat: {}\nnats: {ulr: x}\ndelivery: {retries: 3}\n", nil, []string{
			`c.yaml:1:1: unknown key "nat": did you mean nats?`,
			`c.yaml:2:8: nats: unknown key "ulr": did you mean url?`,
			`c.yaml:3:12: delivery: unknown key "retries": want concurrency, retry, give_up_after, on_unknown_outcome, grace, message_id_domain, helo_name, product_name or templates`}},
		{"nats", "nats:\n  url: http://x,nats://u:hunter2@y\n  user: a\n  nkey_file: b\n  tls: {cert_file: c}\n  replicas: 2\n  sync_interval: never\n  listen: \"4222\"\n  max_store: 10GB\n", nil, []string{
			`c.yaml:2:3: nats: sets more than one way to log in (nkey_file, user): set only one`,
			`c.yaml:2:3: nats.password: is required: nats.user is set`,
			`c.yaml:2:8: nats.url: contains a user or a token, which could be logged: use nats.user and nats.password`,
			`c.yaml:2:8: nats.url: want a URL such as nats://127.0.0.1:4222, or several of one cluster, separated by commas`,
			`c.yaml:5:8: nats.tls: cert_file and key_file belong together: set both`,
			`c.yaml:6:13: nats.replicas: want 1, 3 or 5, got 2`,
			`c.yaml:7:18: nats.sync_interval: want always, or a duration such as 2m`,
			`c.yaml:8:11: nats.listen: want an address and a port such as 127.0.0.1:8080, or :8080 for all addresses`,
			`c.yaml:9:14: nats.max_store: want a size such as 500MiB or 10GiB`}},
		{"nats rules", "nats: {domain: a, api_prefix: b.API, duplicate_window: 1s, max_ack_pending: 20000, inbox_prefix: \"a.>\", max_bytes: {events: 1GB}, ledger_age: 720h}\n", nil, []string{
			`c.yaml:1:7: nats: domain and api_prefix are for a NATS server elsewhere: set nats.url`,
			`c.yaml:1:7: nats: sets domain and api_prefix: set only one`,
			`c.yaml:1:56: nats.duplicate_window: want 10s to 24h`,
			`c.yaml:1:77: nats.max_ack_pending: want 1 to 10000`,
			`c.yaml:1:98: nats.inbox_prefix: want a prefix of subjects, without wildcards, blanks and a dot at its end`,
			`c.yaml:1:125: nats.max_bytes.events: want a size such as 500MiB or 10GiB`,
			`c.yaml:1:143: nats.ledger_age: want 744h (31 days: events are kept for 30) to 26280h (three years)`}},
		{"nats at another port", "nats: {url: \"nats://a:8222,nats://b:820000\"}\n", nil, []string{
			`c.yaml:1:13: nats.url: has the port 820000: want 1 to 65535`,
			`c.yaml:1:13: warning: nats.url: has the port 8222, where a NATS server usually has its monitoring page: clients connect to another, usually 4222`}},
		{"nats with a path", "nats: {url: \"nats://a:4222/x,nats://b:,nats://c:4222/\"}\n", nil, []string{
			`c.yaml:1:13: nats.url: ends with a colon, but has no port after it`,
			`c.yaml:1:13: warning: nats.url: has more than scheme, host and port: the rest is ignored`}},
		{"nats without a scheme", "nats: {url: \"localhost:4222\"}\n", nil, []string{
			`c.yaml:1:13: nats.url: want a URL such as nats://127.0.0.1:4222, or several of one cluster, separated by commas`}},
		{"a cluster takes a server", "nats: {replicas: 3}\n", nil, []string{`c.yaml:1:18: nats.replicas: more than 1 requires a NATS cluster: set nats.url`}},
		{"nats password from a variable in the file", "nats: {url: nats://x, user: a, password: '${NATS_PASSWORD}'}\n", []string{"NATS_PASSWORD=hunter2"}, nil},
		{"nats password from a variable alone", "nats: {url: nats://x, user: a}\n", []string{"CERTPOST_NATS_PASSWORD=hunter2"}, nil},
		{"nats password in the open", "nats: {url: nats://x, user: a, password: hunter2}\n", nil, []string{
			`c.yaml:1:42: warning: nats.password: the secret itself is in the configuration: move it to vault, env, file or credential`}},
		{"vault", "vault: {address: vault.example.com, auth: {method: approle, secret_id: {env: X}}}\n", nil, []string{
			`c.yaml:1:18: vault.address: is not a URL like https://vault.example.com:8200 or unix:///run/vault.sock`,
			`c.yaml:1:43: vault.auth.role_id: is required by auth.method approle`}},
		{"vault in the clear", "vault: {address: \"http://vault.example.com:8200\"}\n", nil, []string{
			`c.yaml:1:18: warning: vault.address: begins with http://: everybody on the network between can read Vault's token and the secrets; use https://`}},
		{"vault in the clear on this machine", "vault: {address: \"http://127.0.0.1:8200\"}\n", nil, nil},
		{"other ports", "vault: {address: \"https://vault:82000\"}\nhttp: {url: \"https://certpost.example.com:0\"}\n", nil, []string{
			`c.yaml:1:18: vault.address: has the port 82000: want 1 to 65535`,
			`c.yaml:2:13: http.url: has the port 0: want 1 to 65535`}},
		{"http", "http: {listen: localhost}\n", nil, []string{`c.yaml:1:16: http.listen: want an address and a port such as 127.0.0.1:8080, or :8080 for all addresses`}},
		{"events", "events: {secret_paths: [\"secret/../x\"], file_roots: [etc], unmatched: drop, invalid_dates: \"no\"}\n", nil, []string{
			`c.yaml:1:25: events.secret_paths[0]: has a segment ".."`,
			`c.yaml:1:54: events.file_roots[0]: is not an absolute path`,
			`c.yaml:1:71: events.unmatched: want dead_letter or ignore, got drop`,
			`c.yaml:1:92: events.invalid_dates: want refuse or warn, got no`}},
		{"delivery", "delivery:\n  concurrency: 0\n  retry: {initial: 1m, max: 5s, multiplier: 0.5}\n  give_up_after: 72\n  on_unknown_outcome: maybe\n  helo_name: \"a b\"\n  message_id_domain: a..b\n  product_name: \"\"\n", nil, []string{
			`c.yaml:2:16: delivery.concurrency: want 1 to 1000, got 0`,
			`c.yaml:3:29: delivery.retry.max: is shorter than the first pause, 1m0s`,
			`c.yaml:3:45: delivery.retry.multiplier: want 1 to 10, got 0.5`,
			`c.yaml:4:18: delivery.give_up_after: want a duration such as 30s, 5m, 72h or 3d, got 72`,
			`c.yaml:5:23: delivery.on_unknown_outcome: want resend or dead_letter, got maybe`,
			`c.yaml:6:14: delivery.helo_name: is not a host name: want a name such as smtp.example.com, or an IP address`,
			`c.yaml:7:22: delivery.message_id_domain: is not a host name: want a name such as smtp.example.com, or an IP address`,
			`c.yaml:8:17: delivery.product_name: is required`}},
		{"log", "log: {level: trace, format: text, addresses: \"yes\"}\n", nil, []string{
			`c.yaml:1:14: log.level: want debug, info, warn or error, got trace`,
			`c.yaml:1:29: log.format: want auto, json or console, got text`,
			`c.yaml:1:46: log.addresses: want true or false, got the text "yes": remove the quotes`}},
		{"targets", target + "  - {id: a, host: smtp.example.com, from_address: a, to: [b@example.com], prot: 1}\n", nil, []string{
			`c.yaml:3:10: targets[1].id: a is already the id of targets[0]: every target needs its own`,
			`c.yaml:3:51: targets[1].from_address: is not an address: want an address such as ops@example.com`,
			`c.yaml:3:75: targets[1]: unknown key "prot": did you mean port?`}},
		{"targets in two places", target + "targets_dir: x\n", nil, []string{`c.yaml:2:3: targets: set only one of targets, targets_dir and targets_file`}},
		{"targets in no place", "targets_dir: ${DIR}/absent\n", nil, []string{`absent: does not exist`}},
		{"targets in the file itself", "targets_file: ${DIR}/c.yaml\n", nil, []string{
			`c.yaml:1:1: unknown key "targets_file": want targets`}},
		{"variables", "nats: {url: \"${NATS}\"}\ndelivery: {retry: {initial: \"${FIRST}\"}}\n", []string{"FIRST=soon"}, []string{
			`c.yaml:1:13: nats.url: the environment variable NATS is not set: set it, or write ${NATS:-default}`,
			`c.yaml:2:29: delivery.retry.initial: want a duration such as 30s, 5m, 72h or 3d, got ${FIRST}`}},
		{"overrides", "delivery: {concurrency: 5}\n", []string{
			"CERTPOST_DELIVERY_CONCURRENCY=many", "CERTPOST_NATS_ULR=x", "CERTPOST_TARGETS=x", "CERTPOST_EVENTS_FILE_ROOTS=a,/b", "CERTPOST_LOG_LEVEL=hunter2",
			"CERTPOST_SERVICE_HOST=10.0.0.1", "CERTPOST_CONFIG=c.yaml", "HOME=/"}, []string{
			`CERTPOST_DELIVERY_CONCURRENCY: delivery.concurrency: want a whole number`,
			`CERTPOST_EVENTS_FILE_ROOTS: events.file_roots[0]: is not an absolute path`,
			`CERTPOST_LOG_LEVEL: log.level: want debug, info, warn or error`,
			`CERTPOST_NATS_ULR: is not a setting: did you mean CERTPOST_NATS_URL?`,
			`CERTPOST_TARGETS: is not a setting: did you mean CERTPOST_TARGETS_DIR?`}},
		{"broken YAML is the only problem", "nats: {url: x\n", nil, []string{`c.yaml:1:7: a { is not closed by }`}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			_, got := load(t, test.text, test.env...)
			if !slices.Equal(got, test.want) {
				t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(test.want, "\n"))
			}
			for _, p := range got {
				if strings.Contains(p, "hunter2") {
					t.Errorf("shows a secret: %s", p)
				}
			}
		})
	}
}

func TestConfigOverrides(t *testing.T) {
	t.Parallel()
	cfg, problems := load(t, "nats: {url: nats://a, user: x, password: {vault: {mount: a, path: b, key: c}}}\nevents: {secret_paths: [secret/a]}\n",
		"CERTPOST_NATS_URL=nats://b", "CERTPOST_NATS_PASSWORD_FILE=/run/p", "CERTPOST_NATS_MAX_STORE=1TiB", "CERTPOST_DELIVERY_RETRY_INITIAL=1s",
		"CERTPOST_DELIVERY_RETRY_MULTIPLIER=1.5", "CERTPOST_EVENTS_SECRET_PATHS=secret/certs/*, transit/certs", "CERTPOST_LOG_ADDRESSES=true",
		"CERTPOST_VAULT_ADDRESS=https://vault.example.com", "CERTPOST_VAULT_AUTH_METHOD=token", "CERTPOST_VAULT_AUTH_TOKEN_ENV=T")
	if len(problems) > 0 {
		t.Fatalf("problems: %q", problems)
	}
	if cfg.NATS.URL != "nats://b" || cfg.NATS.Password.Vault != nil || cfg.NATS.Password.File != "/run/p" || cfg.NATS.MaxStore != 1<<40 ||
		cfg.Delivery.Retry.Initial != time.Second || cfg.Delivery.Retry.Multiplier != 1.5 || !cfg.Log.Addresses ||
		!slices.Equal(cfg.Events.SecretPaths, []string{"secret/certs/*", "transit/certs"}) || cfg.Vault.Auth.Token.Env != "T" {
		t.Errorf("%+v", cfg)
	}
}

// A wrong value is reported where it was given: in the file, in a variable, in the flag, or in a
// variable with the path of the file.
func TestWrongValuesSayWhereTheyAreFrom(t *testing.T) {
	t.Parallel()
	const want = "want a URL such as nats://127.0.0.1:4222"
	dir := t.TempDir()
	good, bad := filepath.Join(dir, "good.yaml"), filepath.Join(dir, "bad.yaml")
	for path, text := range map[string]string{good: "nats: {url: nats://a}\n", bad: "nats: {url: \"::\"}\n"} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, test := range []struct {
		env  []string
		args []string
		want string
	}{
		{nil, []string{"-c", good, "--nats-url", "::"}, "--nats-url: nats.url: " + want},
		{nil, []string{"-c", good, "--nats-url=nats://a:b@"}, "--nats-url: nats.url: "},
		{[]string{"CERTPOST_NATS_URL=nats://b"}, []string{"-c", good, "--nats-url=::"}, "--nats-url: nats.url: " + want},
		{[]string{"CERTPOST_NATS_URL=::"}, []string{"-c", good}, "CERTPOST_NATS_URL: nats.url: " + want},
		{nil, []string{"-c", bad}, bad + ":1:13: nats.url: " + want},
		{[]string{"CERTPOST_CONFIG=" + dir + "/none.yaml"}, nil, dir + "/none.yaml: does not exist (its path is that of CERTPOST_CONFIG)\n"},
		{[]string{"CERTPOST_CONFIG=" + dir + "/none.yaml"}, []string{"-c", dir + "/other.yaml"}, dir + "/other.yaml: does not exist\n"},
	} {
		for _, line := range []string{"status", "dead-letters list"} {
			s := command(t, test.env, append(strings.Fields(line), test.args...)...)
			if s.code != exitUsage || !strings.HasPrefix(s.stderr, test.want) {
				t.Errorf("%s %s %s: exit %d and %s, want %s", test.env, line, test.args, s.code, s.stderr, test.want)
			}
		}
	}
}

func TestConfigTargets(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for name, text := range map[string]string{
		"inline.yaml": "targets:\n  - {id: inline, host: smtp.example.com, from_address: a@example.com, to: [b@example.com]}\n",
		"dir.yaml":    "targets_dir: " + dir + "/d\n", "file.yaml": "targets_file: ${FILE}\n", "none.yaml": "targets: []\ntargets_dir: \"\"\n",
		"d/one.yaml": "id: in-dir\nhost: smtp.example.com\nfrom_address: a@example.com\nto: [b@example.com]\n",
	} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for name, want := range map[string]string{"inline": "inline", "dir": "in-dir", "file": "in-dir", "none": ""} {
		cfg, _, problems := loadConfig(filepath.Join(dir, name+".yaml"), []string{"FILE=" + dir + "/d/one.yaml"})
		if config.Failed(problems) {
			t.Errorf("%s: %v", name, problems)
			continue
		}
		got := ""
		for _, target := range cfg.Book.Current().All() {
			got += target.ID
		}
		if got != want {
			t.Errorf("%s: targets %q, want %q", name, got, want)
		}
	}
}

func TestSize(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]Size{"1KiB": 1 << 10, "500MiB": 500 << 20, "10GiB": 10 << 30, "2TiB": 2 << 40} {
		var s Size
		if err := s.UnmarshalYAML(func(into any) error { *into.(*string) = text; return nil }); err != nil || s != want || s.String() != text {
			t.Errorf("%s is read as %d and written %s: %v", text, s, s, err)
		}
	}
	for _, text := range []string{"", "10", "10GB", "GiB", "0GiB", "-1GiB", "1.5GiB", "9999999GiB", "1 GiB", "1GiBGiB"} {
		var s Size
		if err := s.UnmarshalYAML(func(into any) error { *into.(*string) = text; return nil }); err == nil {
			t.Errorf("%q is read as %d", text, s)
		}
	}
}

// The settings for servers with rules reach the broker, and wrong ones are named.
func TestNATSRules(t *testing.T) {
	t.Parallel()
	cfg, problems := load(t, `nats: {url: "nats://127.0.0.1:4222", domain: hub, inbox_prefix: _mine, duplicate_window: 30s, ledger_age: 1440h, max_ack_pending: 50, max_bytes: {events: 1GiB, ledger: 2MiB}}`)
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	b := cfg.brokerConfig(t.Context(), nil)
	if b.Domain != "hub" || b.InboxPrefix != "_mine" || b.DuplicateWindow != 30*time.Second || b.LedgerAge != 60*24*time.Hour || b.MaxAckPending != 50 || len(b.MaxBytes) != 2 || b.MaxBytes[broker.EventsStream] != 1<<30 || b.MaxBytes["KV_"+broker.LedgerBucket] != 2<<20 {
		t.Errorf("%+v", b)
	}
}
