package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/alecthomas/kong"

	"github.com/certpost/certpost/internal/devrelay"
	"github.com/certpost/certpost/internal/lab"
	"github.com/certpost/certpost/internal/verdict"
)

func TestCandidates(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	config := filepath.Join(dir, "certpost.yaml")
	lab.Write(t, config, []byte("targets:\n  - {id: ops, host: smtp.example.com, auth_method: none, from_address: a@example.com, to: [b@example.com]}\n"))
	env := []string{"CERTPOST_CONFIG=" + config}
	for line, want := range map[string]string{
		"dead-":                       "dead-letters",
		"dead-letters re":             "release replay restore",
		"dead-letters list --out":     "--output",
		"dead-letters list --output ": "csv json table wide",
		"dead-letters list -o j":      "json",
		"dead-letters list --output=": "--output=csv --output=json --output=table --output=wide",
		"schema ":                     "config event outcome",
		"completion z":                "zsh",
		"check --live --target ":      "ops",
		"check --live --tar":          "--target",
		"send-test --target=":         "--target=ops",
		"targets show ":               "ops",
		"complet":                     "completion", // not the command behind it
		"nonsense x":                  "",
	} {
		args := append([]string{"complete", "--"}, strings.Split(line, " ")...)
		if got := strings.Join(strings.Fields(command(t, env, args...).done(t)), " "); got != want {
			t.Errorf("%q is completed by %q, want %q", line, got, want)
		}
	}
}

// Bash asks the built program.
func TestCompletionInBash(t *testing.T) {
	t.Parallel()
	bash, err := exec.LookPath("bash")
	if err != nil {
		lab.Skip(t, "bash is not on this machine")
	}
	dir := t.TempDir()
	if err := os.Symlink(lab.Build(t), filepath.Join(dir, "certpost")); err != nil {
		t.Fatal(err)
	}
	script := `eval "$(certpost completion bash)"; COMP_WORDS=(certpost dead-letters dis); COMP_CWORD=2; _certpost; printf '%s\n' "${COMPREPLY[@]}"`
	shell := exec.Command(bash, "-c", script)
	shell.Env = append(os.Environ(), "PATH="+dir+":"+os.Getenv("PATH"))
	if out, err := shell.CombinedOutput(); err != nil || string(out) != "discard\n" {
		t.Errorf("%q, %v", out, err)
	}
}

// Fish and zsh ask the built program, from the files that packages install.
func TestCompletionInFishAndZsh(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.Symlink(lab.Build(t), filepath.Join(dir, "certpost")); err != nil {
		t.Fatal(err)
	}
	for shell, script := range map[string]string{
		"fish": `source $argv[1]; complete -C "certpost dead-letters dis"`,
		// compadd, which only works while a user types, prints instead.
		"zsh": `fpath=(${1:h} $fpath); compadd() { shift; print -l -- "$@" }; words=(certpost dead-letters dis) CURRENT=3; autoload -Uz _certpost; _certpost`,
	} {
		file := filepath.Join(dir, map[string]string{"fish": "certpost.fish", "zsh": "_certpost"}[shell])
		lab.Write(t, file, []byte(command(t, nil, "completion", shell).done(t)))
		args := []string{"-c", script, file}
		if shell == "zsh" {
			args = []string{"-f", "-c", script, "zsh", file}
		}
		cmd := exec.CommandContext(t.Context(), lab.Need(t, shell), args...)
		cmd.Env = append(os.Environ(), "PATH="+dir+":"+os.Getenv("PATH"), "HOME="+dir)
		if out, err := cmd.CombinedOutput(); err != nil || string(out) != "discard\n" {
			t.Errorf("%s: %q, %v", shell, out, err)
		}
	}
}

// The page has every command and every flag of the help, and nothing that groff complains about.
func TestManPage(t *testing.T) {
	t.Parallel()
	source := command(t, nil, "man").done(t)
	parser, err := newParser(newCLI(), kong.Vars{"version": ""})
	if err != nil {
		t.Fatal(err)
	}
	groff := exec.CommandContext(t.Context(), lab.Need(t, "groff"), "-man", "-Tascii", "-ww", "-P-cbou")
	groff.Stdin = strings.NewReader(source)
	var complaints, shown strings.Builder
	groff.Stdout, groff.Stderr = &shown, &complaints
	if err := groff.Run(); err != nil || complaints.String() != "" {
		t.Fatalf("groff: %v\n%s", err, complaints.String())
	}
	lines := map[string]bool{}
	for line := range strings.Lines(shown.String()) {
		lines[strings.TrimSpace(line)] = true
	}
	for _, leaf := range parser.Model.Leaves(true) {
		if name := strings.TrimPrefix(leaf.FullPath(), "certpost "); !lines[name] {
			t.Errorf("the page has no section %q", name)
		}
		for node := leaf; node != nil; node = node.Parent {
			for _, f := range node.Flags {
				if !f.Hidden && !strings.Contains(shown.String(), "--"+f.Name) {
					t.Errorf("the page has no --%s", f.Name)
				}
			}
		}
	}
	if strings.Contains(shown.String(), " complete [") {
		t.Error("the page has a command that is hidden")
	}
	if got := roff(".a's `b`\n.c\\^~-"); got != `\&.a\(aqs \(gab\(ga`+"\n"+`\&.c\e\(ha\(ti\-` {
		t.Errorf("roff: %s", got)
	}
}

func TestTargetsAndStatus(t *testing.T) {
	t.Parallel()
	o := newFixture(t, "", devrelay.Rule{Stage: devrelay.StageRcpt, Recipient: "nobody@*", Code: 550, Enhanced: "5.1.1", Text: "no such user"})
	list := o.certpost("targets", "list").done(t)
	for _, want := range []string{"ID ", "java ", "pkcs12", "nobody@demo.example", "targets.yaml:"} {
		if !strings.Contains(list, want) {
			t.Errorf("targets list has no %q:\n%s", want, list)
		}
	}
	var views []verdict.TargetView
	if err := json.Unmarshal([]byte(o.certpost("targets", "list", "-o", "json").done(t)), &views); err != nil || len(views) != 5 {
		t.Errorf("%d targets, %v", len(views), err)
	}
	show := o.certpost("targets", "show", "java").done(t)
	for _, want := range []string{"payload", "pkcs12_passphrase", "file:", "tls_mode", "starttls (default)"} {
		if !strings.Contains(show, want) {
			t.Errorf("targets show has no %q:\n%s", want, show)
		}
	}
	o.certpost("targets", "show", "jvaa").failed(t, exitUsage, "certpost: unknown target \"jvaa\": did you mean java?\n")

	o.publish("first", "nobody")
	o.settled()
	status := o.certpost("status").done(t)
	for _, want := range []string{o.service.broker.URL(), "0 events to resolve", "1 dead letter of 1 cause", "LAST HOUR", "certpost dead-letters groups"} {
		if !strings.Contains(status, want) {
			t.Errorf("status has no %q:\n%s", want, status)
		}
	}
	var parsed overview
	if err := json.Unmarshal([]byte(o.certpost("status", "-o", "json").done(t)), &parsed); err != nil || parsed.Backlog.Dead != 1 || len(parsed.Groups) != 1 || len(parsed.Lanes) != 1 {
		t.Errorf("%+v, %v", parsed, err)
	}
}

func TestSendTest(t *testing.T) {
	t.Parallel()
	o := newFixture(t, "", devrelay.Rule{Stage: devrelay.StageRcpt, Recipient: "nobody@*", Code: 550, Enhanced: "5.1.1", Text: "no such user"})
	if said := o.certpost("send-test", "--target", "java").done(t); !strings.Contains(said, "accepted the test mail for java@demo.example: 250 ") && !strings.Contains(said, "accepted the test mail for java@demo.example") {
		t.Errorf("%s", said)
	}
	mails := o.relay.Mails()
	if len(mails) != 1 || !strings.Contains(string(mails[0].Raw), "Subject: TEST Certpost: certificate for test.certpost.invalid") || !strings.Contains(string(mails[0].Raw), "test.certpost.invalid.p12") {
		t.Fatalf("%d mails: %.600s", len(mails), mails[0].Raw)
	}
	said := o.certpost("send-test", "--target", "nobody")
	if said.code != exitFailed || !strings.Contains(said.stderr, "the test mail was not sent: SMTP_PERMANENT in rcpt (reply 550 5.1.1)") {
		t.Errorf("%+v", said)
	}
	o.certpost("send-test", "--target", "nowhere").failed(t, exitUsage, "certpost: --target nowhere: unknown target: certpost targets list shows the targets\n")
	if n, err := o.service.broker.Backlog(t.Context()); err != nil || n.Dead != 0 || n.Deliveries != 0 {
		t.Errorf("a test left %+v, %v", n, err)
	}
}

// The configuration of a mail host has no problem and the recommended form: one file for key and chain.
func TestInitOfAMailHost(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for name, test := range map[string]struct {
		args  []string
		want  []string // in the file
		says  string
		agent bool
	}{
		"whole": {nil, []string{"mail_host: mx1\n", "id: mx1-postfix", "id: mx1-dovecot", "key_path: /etc/postfix/certs/mx1.pem"}, "ssl_cert = </etc/dovecot/certs/mx1.pem", false},
		"agent": {[]string{"--program", "postfix", "--nats-url", "tls://nats.example.com:4222"}, []string{"user: mailhost-mx1", "id: mx1-postfix"}, "certpost run --mail-host mx1", true},
	} {
		file := filepath.Join(dir, name+".yaml")
		said := command(t, nil, append([]string{"init", "--file", file, "--mail-host", "mx1", "--names", "mx1.example.com", "--names", "mx.example.com"}, test.args...)...).done(t)
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range test.want {
			if !strings.Contains(string(text), want) {
				t.Errorf("%s lacks %q:\n%s", name, want, text)
			}
		}
		if !strings.Contains(said, test.says) || !strings.Contains(said, "install -d -m 0755 -o root /etc/postfix/certs") || test.agent && strings.Contains(string(text), "dovecot") {
			t.Errorf("%s:\n%s\n%s", name, said, text)
		}
		// In an order in which no program ever lacks its files, and the check finds a program that runs.
		last := -1
		for _, step := range []string{"cat PRESENT-KEY.pem PRESENT-CHAIN.pem > /etc/postfix/certs/mx1.pem", "main.cf:", "certpost run ", "certpost check --live "} {
			at := strings.Index(said, step)
			if at <= last {
				t.Errorf("%s: %q is missing, or comes too early:\n%s", name, step, said)
			}
			last = at
		}
		if publish := "certpost publish -c " + file + " --cert /etc/letsencrypt/live/mx1.example.com/fullchain.pem"; strings.Contains(said, publish) == test.agent {
			t.Errorf("%s: how to publish is for the whole program only:\n%s", name, said)
		}
		if strings.Contains(said, "service_count = 0") == test.agent {
			t.Errorf("%s: service_count = 0 is for Dovecot only:\n%s", name, said)
		}
		cfg, _, problems := loadConfig(file, nil)
		if len(problems) > 0 || !cfg.Book.Current().HasLane("host-mx1") {
			t.Errorf("%s: %v", name, problems)
		}
	}
	other := filepath.Join(dir, "other.yaml")
	command(t, nil, "init", "--file", other, "--mail-host", "mx1").failed(t, exitUsage, "certpost: init --mail-host needs --names\n")
	command(t, nil, "init", "--file", other, "--mail-host", "mx1", "--names", "*.example.com").failed(t, exitUsage, "certpost: --names: the first is the name that clients use, so it has no wildcard: \"*.example.com\"\n")
	if wrong := command(t, nil, "init", "--file", other, "--mail-host", "mx/1", "--names", "mx1.example.com"); wrong.code != exitUsage || !strings.Contains(wrong.stderr, "nothing was written") {
		t.Errorf("%+v", wrong)
	}
	if _, err := os.Stat(other); err == nil {
		t.Error("a file was written")
	}
}

func TestInit(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := filepath.Join(dir, "certpost.yaml")
	said := command(t, nil, "init", "--file", file, "--host", "smtp.example.com", "--from", "certs@example.com", "--to", "ops@example.com", "--username", "certs", "--names", "*.example.com").done(t)
	if !strings.Contains(said, "certpost send-test --target mail -c "+file) {
		t.Errorf("%s", said)
	}
	command(t, nil, "init", "--file", file, "--host", "smtp.example.com", "--from", "a@example.com", "--to", "b@example.com").failed(t, exitUsage,
		fmt.Sprintf("certpost: %s exists: --force replaces it, --file writes another file\n", file))
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
	checked := command(t, []string{"SMTP_PASSWORD=" + relayPassword}, "check", "-c", file)
	if checked.code != exitDone || !strings.Contains(checked.stdout, "the configuration is valid: 1 target on 1 lane, 0 warnings") {
		t.Errorf("%+v", checked)
	}
	missing := command(t, nil, "init", "--file", filepath.Join(dir, "other.yaml"), "--host", "smtp.example.com")
	missing.failed(t, exitUsage, "certpost: init needs --from, --to\n")
	wrong := command(t, nil, "init", "--file", filepath.Join(dir, "other.yaml"), "--host", "smtp.example.com", "--from", "nobody", "--to", "b@example.com")
	if wrong.code != exitUsage || !strings.Contains(wrong.stderr, "nothing was written: targets[0].from_address: is not an address") {
		t.Errorf("%+v", wrong)
	}
	if _, err := os.Stat(filepath.Join(dir, "other.yaml")); err == nil {
		t.Error("a file was written")
	}

	// In a terminal it asks.
	var asked strings.Builder
	a := &app{ctx: t.Context(), stdout: &asked, stderr: &asked, answers: strings.NewReader("smtp.example.com\ncerts@example.com\nops@example.com\n\n")}
	c := &initCmd{File: filepath.Join(dir, "asked.yaml"), Port: 25, Payload: "zip"}
	if err := c.Run(a); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(c.File)
	if err != nil || !strings.Contains(string(text), "auth_method: none") || !strings.Contains(string(text), "payload: zip") || !strings.Contains(asked.String(), "Host name of the SMTP relay: ") {
		t.Errorf("%s\n%s, %v", asked.String(), text, err)
	}
}
