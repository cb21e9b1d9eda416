package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/certpost/certpost/internal/events"
	"github.com/certpost/certpost/internal/lab"
)

// ran is a process that has ended.
func ran(t *testing.T, dir string, env []string, program string, args ...string) said {
	t.Helper()
	cmd := exec.Command(program, args...)
	var stdout, stderr bytes.Buffer
	cmd.Dir, cmd.Stdout, cmd.Stderr, cmd.Env = dir, &stdout, &stderr, append(os.Environ(), env...)
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return said{code: cmd.ProcessState.ExitCode(), stdout: stdout.String(), stderr: stderr.String()}
}

// The written hooks are run as the clients run them, in another directory. A label that a shell
// would take apart arrives as it is.
func TestInstalledHooks(t *testing.T) {
	t.Parallel()
	program := lab.Build(t)
	addr := lab.FreeAddress(t)
	lab.NATS(t, addr, "")
	stream := eventStream(t, "nats://"+addr, -1)
	p := newPublisher(t, "nats://"+addr, "")
	p.write("certpost.yaml", "data_dir: ./here\nnats: {url: \"nats://"+addr+"\"}\n")
	p.issue("www.example.com")
	cert, key := p.path("www.example.com.pem"), p.path("www.example.com.key")
	if err := os.MkdirAll(p.path("live/www.example.com"), 0o700); err != nil {
		t.Fatal(err)
	}
	for from, to := range map[string]string{cert: "fullchain.pem", key: "privkey.pem"} {
		if err := os.Symlink(from, p.path("live/www.example.com/"+to)); err != nil {
			t.Fatal(err)
		}
	}
	const hostile = "it's \"a\" $HOME `id` \\ team"
	deploy := []string{"deploy_cert", "www.example.com", key, cert, cert, cert, "1"}
	for i, c := range []struct {
		client string
		env    []string
		args   []string
	}{
		{"certbot", []string{"RENEWED_LINEAGE=" + p.path("live/www.example.com")}, nil},
		{"lego", []string{"LEGO_CERT_DOMAIN=www.example.com", "LEGO_CERT_PATH=" + cert, "LEGO_CERT_KEY_PATH=" + key}, nil},
		{"acme.sh", []string{"Le_Domain=www.example.com", "CERT_FULLCHAIN_PATH=" + cert, "CERT_KEY_PATH=" + key}, nil},
		{"dehydrated", nil, deploy},
	} {
		hook := p.path("hooks of/" + c.client)
		install := []string{"hook", "install", c.client, "--file", hook}
		if s := ran(t, p.dir, nil, program, append(install, "--", "--label", "team="+hostile)...); s.code != exitUsage || !strings.HasSuffix(s.stderr, "nothing was written: --yes writes it without asking\n") || !strings.Contains(s.stdout, "publish --from "+c.client) {
			t.Errorf("%+v", s)
		}
		s := ran(t, p.dir, nil, program, append(install, "--yes", "--", "--label", "team="+hostile)...)
		if s.code != exitDone || s.stderr != "" || !strings.Contains(s.stdout, "is written.") {
			t.Fatalf("%+v", s)
		}
		if again := ran(t, p.dir, nil, program, append(install, "--", "--label", "team="+hostile)...); again.stdout != hook+" is there already\n" {
			t.Errorf("%+v", again)
		}
		if s := ran(t, t.TempDir(), c.env, hook, c.args...); s.code != exitDone || s.stderr != "" || !strings.HasSuffix(s.stdout, fmt.Sprintf(" published (sequence %d)\n", i+1)) {
			t.Fatalf("%s: %+v", c.client, s)
		}
		m, err := stream.GetMsg(t.Context(), uint64(i+1))
		if err != nil {
			t.Fatal(err)
		}
		ev, err := events.Decode(nil, m.Data)
		if err != nil || ev.Labels["team"] != hostile || !strings.HasPrefix(ev.Source, c.client+"://") || ev.PrivateKey == nil {
			t.Errorf("%s: %s, %v", c.client, m.Data, err)
		}
	}
	if _, err := os.Stat(p.path("here/spool")); err != nil {
		t.Errorf("the spool is not where the configuration says: %v", err)
	}

	// Files of others stay.
	p.write("mine", "#!/bin/sh\necho mine\n")
	if s := command(t, nil, "-c", p.path("certpost.yaml"), "hook", "install", "certbot", "--file", p.path("mine"), "--yes"); s.code != exitUsage || !strings.Contains(s.stderr, p.path("mine")+" exists and is not one of certpost's hooks: --for") {
		t.Errorf("%+v", s)
	}
	s := command(t, []string{"CERTPOST_NATS_URL=nats://elsewhere:4222"}, "-c", p.path("certpost.yaml"), "hook", "install", "lego", "--file", p.path("mine"), "--force", "--yes")
	if s.code != exitDone || !strings.Contains(s.stderr, "warning: CERTPOST_NATS_URL is set here") {
		t.Errorf("%+v", s)
	}
}

// What `publish` would refuse at each renewal is refused when the hook is installed, where a person
// reads the error, and nothing is written.
func TestFlagsOfHooks(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	lab.Write(t, filepath.Join(dir, "certpost.yaml"), []byte(`
data_dir: `+dir+`/data
events:
  secret_paths: [secret/certs/**]
targets:
  - {id: web, host: smtp.example.com, from_address: certpost@example.com, to: [ops@example.com]}
`))
	hook := filepath.Join(dir, "hook")
	install := func(flags ...string) said {
		return command(t, nil, append([]string{"-c", filepath.Join(dir, "certpost.yaml"), "hook", "install", "certbot", "--file", hook, "--yes", "--"}, flags...)...)
	}
	const place = "vault:secret/certs/x#private_key"
	for _, c := range []struct {
		want  string
		flags []string
	}{
		{"unknown flag --store-kay", []string{"--store-kay", "x"}},
		{"--target is empty", []string{"--target", ""}},
		{"--cert and --from can't be used together", []string{"--cert", "x"}},
		{"--store-key: ", []string{"--store-key", "secret/certs/x"}},
		{"--store-key: {name} is unknown: use {lineage}", []string{"--store-key", "vault:secret/certs/{name}#private_key"}},
		{"keys can be stored only in vault:", []string{"--store-key", "file:/etc/key.pem"}},
		{"secret/elsewhere/x", []string{"--store-key", "vault:secret/elsewhere/x#private_key"}},
		{"--key-ref: ", []string{"--key-ref", "secret/certs/x"}},
		{"{lineage} is unknown", []string{"--key-ref", "vault:secret/certs/{lineage}#private_key"}},
		{"placeholders are replaced only in --store-key", []string{"--key-ref", "vault:secret/certs/{cn}#private_key"}},
		{"secret/elsewhere/x", []string{"--key-ref", "vault:secret/elsewhere/x#private_key"}},
		{"not a URI-reference", []string{"--source", "not a uri"}},
		{`target "nobody" is not defined`, []string{"--target", "nobody"}},
		{"the same target as", []string{"--target", "web,web"}},
		{"--as a b", []string{"--as", "a b"}},
		{"give certpost --config FILE before hook install", []string{"--config", "/etc/other.yaml"}},
		{"give certpost --config FILE before hook install", []string{"-c", "/etc/other.yaml"}},
		{"unexpected argument extra: certbot passes the arguments", []string{"extra"}},
		{"--from", []string{"--from", "lego"}},
		{"each certificate needs an id of its own", []string{"--id", "one"}},
		{"give the path in full", []string{"--store-key", place, "--key", "key.pem"}},
		{"--help and --version end the program", []string{"--help"}},
	} {
		if s := install(c.flags...); s.code != exitUsage || !strings.Contains(s.stderr, "flags for the hook: ") || !strings.Contains(s.stderr, c.want) {
			t.Errorf("%q: %+v, want %s", c.flags, s, c.want)
		}
		if _, err := os.Stat(hook); err == nil {
			t.Fatalf("%q: a hook is written", c.flags)
		}
	}
	if s := install("--target", "web,nobody", "--store-key", "vault:secret/certs/{lineage}-{key_type}#private_key"); s.code != exitDone || !strings.Contains(s.stderr, `cannot be delivered to all targets: target "nobody" is not defined`) {
		t.Errorf("%+v", s)
	}
	if s := install("--target", "nobody", "--force"); s.code != exitDone || !strings.Contains(s.stderr, "warning: ") {
		t.Errorf("with --force: %+v", s)
	}
}

// A hook that passes the key of another certificate fails where its client is seen to have passed it,
// not as a dead letter: the error names both files. Keys that only the program that delivers can
// read, or decrypt, are left to it.
//
// Fault: the key's file that a client passes has not the key of the certificate. Result: refused
// (exit 2), with both files.
func TestHookWithTheKeyOfAnotherCertificate(t *testing.T) {
	t.Parallel()
	p := newPublisher(t, "nats://"+lab.FreeAddress(t), "")
	p.issue("www.example.com")
	p.issue("other.example.com")
	cert, key, other := p.path("www.example.com.pem"), p.path("www.example.com.key"), p.path("other.example.com.key")
	for _, args := range [][]string{{"--cert", "/dev/zero"}, {"--from", "files", "--", "/dev/zero"}} { // it never ends
		if s := p.publish(nil, args...); s.code != exitUsage || !strings.Contains(s.stderr, "/dev/zero: it is a device, not a regular file") {
			t.Errorf("%q: %+v", args, s)
		}
	}
	p.write("encrypted.key", "-----BEGIN ENCRYPTED PRIVATE KEY-----\nMAA=\n-----END ENCRYPTED PRIVATE KEY-----\n")
	p.write("garbage.key", "garbage")
	for _, c := range []struct {
		key    string
		client []string
		env    []string
		want   string
	}{
		{other, []string{"files", "--", cert, other}, nil, "does not match the certificate"},
		{other, []string{"step", "--", cert, other}, nil, "does not match the certificate"},
		{other, []string{"dehydrated", "--", "deploy_cert", "www.example.com", other, cert, cert, cert}, nil, "does not match the certificate"},
		{other, []string{"lego"}, []string{"LEGO_CERT_DOMAIN=www.example.com", "LEGO_CERT_PATH=" + cert, "LEGO_CERT_KEY_PATH=" + other}, "does not match the certificate"},
		{p.path("garbage.key"), []string{"files", "--", cert, p.path("garbage.key")}, nil, ""},
	} {
		s := p.publish(c.env, append([]string{"--from"}, c.client...)...)
		if s.code != exitUsage || !strings.Contains(s.stderr, c.key+" is not the private key of the certificate in "+cert+": ") || !strings.Contains(s.stderr, c.want) || p.state().Waiting != 0 {
			t.Errorf("%q: %+v", c.client, s)
		}
	}
	for i, args := range [][]string{
		{"--from", "files", "--", cert, key},
		{"--from", "files", "--", cert, p.path("encrypted.key")},
		{"--from", "files", "--", cert, p.path("elsewhere.key")},
		{"--from", "files", "--no-key", "--", cert, other},
		{"--from", "files", "--force", "--", cert, other},
	} {
		if s := p.publish(nil, append([]string{"--id", fmt.Sprint("e", i)}, args...)...); s.code != exitDone || strings.Contains(s.stderr, "is not the private key") != (i == 4) {
			t.Errorf("%q: %+v", args, s)
		}
	}
}

// dehydrated calls its hook for each step, stops if one fails, and after a deploy_cert that failed
// says only unchanged_cert, at each run.
//
// Fault: dehydrated's deploy_cert fails, and its next runs say unchanged_cert. Result: the
// certificate is published then, once; later ones only publish what waits.
func TestDehydratedSteps(t *testing.T) {
	t.Parallel()
	addr := lab.FreeAddress(t)
	p := newPublisher(t, "nats://"+addr, "")
	p.write("wrong.yaml", "nats: {ulr: x}\n")
	for _, name := range []string{"old.example.com", "www.example.com"} {
		p.issue(name)
	}
	files := func(step, name string) []string {
		cert := p.path(name + ".pem")
		return []string{"--from", "dehydrated", "--", step, name, p.path(name + ".key"), cert, cert, cert}
	}
	for _, step := range []string{"this_hookscript_is_broken__dehydrated_is_fine__please_ignore_unknown_hooks_in_your_script", "startup_hook", "deploy_challenge", "exit_hook", "invalid_challenge"} {
		s := command(t, nil, "-c", p.path("wrong.yaml"), "publish", "--from", "dehydrated", "--", step, "a", "", "c")
		s.failed(t, exitDone, "")
	}
	// The configuration is wrong: nothing can be kept.
	if s := command(t, nil, append([]string{"-c", p.path("wrong.yaml"), "publish"}, files("deploy_cert", "www.example.com")...)...); s.code != exitUsage {
		t.Errorf("%+v", s)
	}
	if s := p.publish(nil, files("deploy_cert", "old.example.com")...); s.code != exitDone || !strings.Contains(s.stderr, "it is kept in") {
		t.Errorf("%+v", s)
	}
	if s := p.publish(nil, files("unchanged_cert", "www.example.com")...); s.code != exitDone || !strings.Contains(s.stderr, "it is kept in") {
		t.Errorf("%+v", s)
	}
	if s := p.publish(nil, files("unchanged_cert", "www.example.com")...); s.code != exitDone || !strings.Contains(s.stderr, "what waits in the spool is not published yet: NATS at") || p.state().Waiting != 2 {
		t.Errorf("%+v", s)
	}

	lab.NATS(t, addr, "")
	stream := eventStream(t, "nats://"+addr, -1)
	for range 3 {
		p.publish(nil, files("unchanged_cert", "www.example.com")...).failed(t, exitDone, "")
		p.publish(nil, files("unchanged_cert", "old.example.com")...).failed(t, exitDone, "")
	}
	if got := ids(t, stream); len(got) != 2 {
		t.Errorf("published: %q", got)
	}
	p.issue("www.example.com") // a renewal
	p.publish(nil, files("unchanged_cert", "www.example.com")...).done(t)
	if got := ids(t, stream); len(got) != 3 || got[2] == got[1] {
		t.Errorf("published: %q", got)
	}

	// A memory that cannot be read costs a second event, not the certificate.
	lab.Write(t, p.path("spool/published.json"), []byte("{"))
	if s := p.publish(nil, files("unchanged_cert", "www.example.com")...); s.code != exitDone || !strings.Contains(s.stderr, "may be published once more: spool: "+filepath.Join(p.dir, "spool/published.json")+" cannot be read") {
		t.Errorf("%+v", s)
	}
}

// step passes nothing to --exec, so its command line names the files.
func TestPublishFromStep(t *testing.T) {
	t.Parallel()
	addr := lab.FreeAddress(t)
	lab.NATS(t, addr, "")
	stream := eventStream(t, "nats://"+addr, -1)
	p := newPublisher(t, "nats://"+addr, "")
	p.issue("www.example.com")
	cert, key := p.path("www.example.com.pem"), p.path("www.example.com.key")
	first := p.publish(nil, "--from", "step", "--", cert, key).done(t)
	if again := p.publish(nil, "--from", "step", "--", cert, key).done(t); !strings.Contains(again, "published already") {
		t.Errorf("%s, then %s", first, again)
	}
	p.issue("www.example.com")
	if next := p.publish(nil, "--from", "step", "--", cert, key).done(t); !strings.Contains(next, "(sequence 2)") {
		t.Errorf("after a renewal: %s", next)
	}
	m, err := stream.GetMsg(t.Context(), 1)
	if err != nil {
		t.Fatal(err)
	}
	host, _ := os.Hostname()
	ev, err := events.Decode(nil, m.Data)
	if err != nil || ev.Source != "file://"+host+cert || ev.PrivateKey.File != key {
		t.Errorf("%s, %v", m.Data, err)
	}
	p.publish(nil, "--from", "step").failed(t, exitUsage, "certpost: --from: step passed no certificate: this works only as step's --exec, with the files of the certificate and of its key: step ca renew --exec 'certpost publish --from step -- CERT KEY' CERT KEY\n")
}
