//go:build unix

package mailhost

import (
	"encoding/hex"
	"encoding/pem"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/certpost/certpost/internal/lab"
	"github.com/certpost/certpost/internal/verdict"
)

func TestParseCommand(t *testing.T) {
	t.Parallel()
	for text, want := range map[string][]string{
		"":                               nil,
		"  \t ":                          nil,
		"postfix reload":                 {"postfix", "reload"},
		"  doveadm\t reload ":            {"doveadm", "reload"},
		`postfix -c "/etc/my postfix"`:   {"postfix", "-c", "/etc/my postfix"},
		`a 'b "c" \d' e`:                 {"a", `b "c" \d`, "e"},
		`a "b 'c' \" \\ \$ \x"`:          {"a", `b 'c' " \ $ \x`},
		`a\ b c\'d \|`:                   {"a b", "c'd", "|"},
		`a "" ''`:                        {"a", "", ""},
		`a"b"'c'd`:                       {"abcd"},
		`sh -c 'a && b'`:                 {"sh", "-c", "a && b"},
		"systemctl reload postfix@-":     {"systemctl", "reload", "postfix@-"},
		"a#b c~d":                        {"a#b", "c~d"},
		"touch /tmp/größe":               {"touch", "/tmp/größe"},
		"a --option=value -x=\"y z\"":    {"a", "--option=value", "-x=y z"},
		`a "b|c;d" 'e>f'`:                {"a", "b|c;d", "e>f"},
		`postmap -F "hash:/etc/sni map"`: {"postmap", "-F", "hash:/etc/sni map"},
	} {
		got, err := ParseCommand(text)
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("%q: %q, %v, want %q", text, got, err, want)
		}
	}
	for text, problem := range map[string]string{
		"a && b": "only a shell", "a | b": "only a shell", "a; b": "only a shell", "a > b": "only a shell", "a $HOME": "only a shell",
		`a "$HOME"`: "only a shell", "a `b`": "only a shell", "a *.pem": "only a shell", "a ~/b": "only a shell", "a # b": "only a shell",
		"a\nb": "only a shell", "(a)": "only a shell", `a "b`: "not closed", "a 'b": "not closed", `a \`: "backslash",
	} {
		if got, err := ParseCommand(text); err == nil || !strings.Contains(err.Error(), problem) {
			t.Errorf("%q: %q, %v, want an error with %q", text, got, err, problem)
		}
	}
	var c Command
	if err := c.UnmarshalYAML(func(into any) error { *into.(*string) = "a 'b c'"; return nil }); err != nil || !slices.Equal(c, Command{"a", "b c"}) {
		t.Errorf("a text: %q, %v", c, err)
	}
}

// TestCommandIsKilled: with everything that it has started.
//
// Fault: hangs. Result: the error says why; a command that hangs is killed with all that it
// started.
func TestCommandIsKilled(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "pid")
	began := time.Now()
	err := script(t, "sleep 600 & echo $! > "+file+"; echo waiting; wait").run(t.Context(), time.Second, nil)
	if err == nil || !strings.Contains(err.Error(), "did not end within 1s") || !strings.Contains(err.Error(), "waiting") {
		t.Errorf("%v", err)
	}
	if took := time.Since(began); took > 30*time.Second {
		t.Errorf("took %v", took)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(30 * time.Second); syscall.Kill(pid, 0) == nil && !isZombie(pid); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("process %d, which the command has started, still runs", pid)
		}
	}
}

// isZombie reports whether a killed process only waits for its parent.
func isZombie(pid int) bool {
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	return err == nil && strings.Contains(string(stat), ") Z ")
}

// TestCommandLeavesADaemon: a daemon that a command has started keeps its output open, and
// is neither waited for nor killed.
//
// Fault: or leaves a daemon. Result: a daemon is neither waited for nor killed.
func TestCommandLeavesADaemon(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "pid")
	began := time.Now()
	if err := script(t, "sleep 60 & echo $! > "+file).run(t.Context(), 50*time.Second, nil); err != nil {
		t.Error(err)
	}
	if took := time.Since(began); took > 30*time.Second {
		t.Errorf("took %v", took)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Errorf("the daemon was killed: %v", err)
	}
}

// Fault: a command fails; does not exist. Result: the error says why.
func TestCommandErrors(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		command Command
		want    string
	}{
		{Command{"no-such-program"}, "was not found in"},
		{Command{"./here"}, "give its absolute path"},
		{Command{"/no/such/program"}, "does not exist on this host"},
		{Command{"/etc"}, "is no program, but a directory"},
		{Command{"/etc/passwd"}, "is not executable for Certpost's user"},
		{Command{"false"}, "exit status 1, without any output; read the log"},
		{script(t, "echo first; echo second >&2; exit 7"), "exit status 7: first second"},
		{script(t, `printf '\033[31mred\033[0m\n'; exit 1`), "exit status 1: "},
		{script(t, "yes | head -c 100000; echo; echo the end; exit 1"), "the end"},
		{script(t, "kill -9 $$"), "killed"},
	} {
		err := c.command.run(t.Context(), time.Minute, nil)
		if err == nil || !strings.Contains(err.Error(), c.want) || len(err.Error()) > 1500 || strings.ContainsRune(err.Error(), '\033') {
			t.Errorf("%v: %v, want %q", c.command, err, c.want)
		}
	}
}

// TestCommandEnvironment: the secrets of this process stay with it.
//
// Fault: or looks for Certpost's secrets. Result: its environment has none.
func TestCommandEnvironment(t *testing.T) {
	t.Setenv("CERTPOST_VAULT_TOKEN", "canary-token")
	err := script(t, "env; exit 1").run(t.Context(), time.Minute, []string{"CERTPOST_NEW_CERT=/here"})
	if err == nil || strings.Contains(err.Error(), "canary") || !strings.Contains(err.Error(), "CERTPOST_NEW_CERT=/here") {
		t.Error(err)
	}
}

// TestErrorsQuoteNoKey: whatever a command prints of the key, in whichever form.
//
// Fault: a command prints the key. Result: its output is left out.
func TestErrorsQuoteNoKey(t *testing.T) {
	t.Parallel()
	openssl := lab.Need(t, "openssl")
	a := newAuthority(t)
	for _, kind := range []string{"p256", "rsa", "ed25519"} {
		leaf := lab.Issue(t, a.between, lab.NewKey(t, kind), serverName, lab.DNSNames(serverName), unique)
		m := a.material(t, leaf)
		block, _ := pem.Decode(m.Key)
		lines := strings.Split(strings.TrimSpace(string(m.Key)), "\n")
		for name, command := range map[string]string{
			"the file":       `cat "$CERTPOST_NEW_KEY"`,
			"text":           openssl + ` pkey -in "$CERTPOST_NEW_KEY" -noout -text`,
			"a line":         "tail -n 2 \"$CERTPOST_NEW_KEY\" | head -n 1",
			"part of a line": "printf %s " + lines[1][13:45],
			"hexadecimal":    "printf %s " + hex.EncodeToString(block.Bytes[len(block.Bytes)-20:]),
			"upper case":     "printf %s " + strings.ToUpper(hex.EncodeToString(block.Bytes[len(block.Bytes)-20:])),
		} {
			d := layouts["apart"](privateDir(t))
			d.ValidateCommand = script(t, command+"; exit 1")
			f := wantFailure(t, deployer(), d, m, "DEPLOY_VALIDATE", StepValidate, NotNeeded)
			if !strings.Contains(f.Reason, "left out") {
				t.Errorf("%s, %s: %v", kind, name, f)
			}
		}
	}
	if quotesKey("reload failed: /etc/postfix/main.cf: line 3", [][]byte{a.fresh(t).Key}) {
		t.Error("an innocent line counts as a key")
	}
}

// TestFormerKeyIsNotQuoted: by the reload, which sees the former key during the rollback.
//
// Fault: a command prints the key. Result: its output is left out.
func TestFormerKeyIsNotQuoted(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	eachLayout(t, func(t *testing.T, d Deployment) {
		mustDeploy(t, deployer(), d, a.fresh(t), Deployed)
		d.ReloadCommand = script(t, "grep -v -e ----- "+d.KeyPath+" | head -n 2; exit 1")
		f := wantFailure(t, deployer(), d, a.fresh(t), "DEPLOY_RELOAD", StepReload, RollbackFailed)
		if strings.Count(f.Reason, "left out") != 2 {
			t.Error(f)
		}
	})
}

// TestValidateCommandSeesTheNewFiles: by the paths in its environment, before any is replaced.
func TestValidateCommandSeesTheNewFiles(t *testing.T) {
	t.Parallel()
	openssl := lab.Need(t, "openssl")
	a := newAuthority(t)
	eachLayout(t, func(t *testing.T, d Deployment) {
		mustDeploy(t, deployer(), d, a.fresh(t), Deployed)
		before, err := os.ReadFile(d.CertPath)
		if err != nil {
			t.Fatal(err)
		}
		former := filepath.Join(t.TempDir(), "former")
		if err := os.WriteFile(former, before, 0o600); err != nil {
			t.Fatal(err)
		}
		d.ValidateCommand = script(t, "set -e\ncmp "+former+" "+d.CertPath+`
test "$(`+openssl+` x509 -noout -pubkey -in "$CERTPOST_NEW_CERT")" = "$(`+openssl+` pkey -pubout -in "$CERTPOST_NEW_KEY")"
! cmp -s "$CERTPOST_NEW_CERT" `+former)
		mustDeploy(t, deployer(), d, a.fresh(t), Deployed)
	})
}

func TestCheckSettings(t *testing.T) {
	t.Parallel()
	for want, edit := range map[string]func(*Deployment){
		"cert_path is missing":   func(d *Deployment) { d.CertPath = "" },
		"key_path is missing":    func(d *Deployment) { d.KeyPath = "" },
		"must be absolute":       func(d *Deployment) { d.CertPath = "cert.pem" },
		`"/etc/x/../key.pem"`:    func(d *Deployment) { d.KeyPath = "/etc/x/../key.pem" },
		"chain_path is the same": func(d *Deployment) { d.ChainPath = d.CertPath },
		"cert_mode 0666":         func(d *Deployment) { d.CertMode = 0o666 },
		"cert_mode 04755":        func(d *Deployment) { d.CertMode = 0o4755 },
		"key_mode 0644":          func(d *Deployment) { d.KeyMode = 0o644 },
		"key_mode 0660":          func(d *Deployment) { d.KeyMode = 0o660 },
		"timeout is negative":    func(d *Deployment) { d.CommandTimeout = -1 },
		"backup_retention -1":    func(d *Deployment) { d.BackupRetention = -1 },
		"attempts 21":            func(d *Deployment) { d.Verify.Attempts = 21 },
		"is not host:port":       func(d *Deployment) { d.Verify.Endpoints = []Endpoint{{"localhost", SMTP}} },
		"protocol is required":   func(d *Deployment) { d.Verify.Endpoints = []Endpoint{{"localhost:2525", ""}} },
		`"http" is unknown`:      func(d *Deployment) { d.Verify.Endpoints = []Endpoint{{"localhost:443", "http"}} },
	} {
		d := Postfix()
		edit(&d)
		if err := d.Check(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
		if _, err := deployer().Deploy(t.Context(), d, Material{}); err == nil || !strings.Contains(err.Error(), "TARGET_INVALID") {
			t.Errorf("deployed with %s: %v", want, err)
		}
	}
	both := Postfix()
	both.KeyMode, both.CertMode = 0o644, 0o666
	if err := both.Check(); err == nil || strings.Count(err.Error(), "_mode") != 2 {
		t.Errorf("%v, want both problems", err)
	}
	for _, d := range []Deployment{Postfix(), Dovecot()} {
		if err := d.Check(); err != nil {
			t.Error(err)
		}
	}
	if err := Files().Check(); err == nil {
		t.Error("files have no default paths")
	}
	for text, want := range map[string]Mode{"0644": 0o644, "640": 0o640, "0600": 0o600, "": 0, "rw-": 0, "0999": 0, "01777": 0, "0": 0} {
		var m Mode
		err := m.UnmarshalYAML(func(into any) error { *into.(*string) = text; return nil })
		if m != want || (err == nil) != (want != 0) {
			t.Errorf("%q: %v, %v", text, m, err)
		}
	}
}

// What would fail in the middle of a deployment is found before: plan and check look at the programs of all commands.
//
// Fault: a command does not exist, or is not executable. Result: plan and check say so.
func TestPlanLooksAtPrograms(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	notExecutable := filepath.Join(privateDir(t), "reload")
	if err := os.WriteFile(notExecutable, []byte("#!/bin/sh\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	eachLayout(t, func(t *testing.T, d Deployment) {
		d.ValidateCommand, d.ReloadCommand = Command{"/usr/sbin/no-such-program", "check"}, Command{notExecutable}
		m := a.fresh(t)
		for what, material := range map[string]*Material{"the plan": &m, "the check": nil} {
			var failed []string
			for _, f := range deployer().Plan(t.Context(), d, material) {
				if f.Failed {
					failed = append(failed, f.What+" "+f.Text)
				}
			}
			if len(failed) != 2 || !strings.Contains(failed[0], `command the program "/usr/sbin/no-such-program" does not exist`) || !strings.Contains(failed[1], "is not executable") {
				t.Errorf("%s says %q", what, failed)
			}
		}
		d.ReloadCommand = Command{"true"}
		wantFailure(t, deployer(), d, m, verdict.DeployValidate, StepValidate, NotNeeded)
	})
}
