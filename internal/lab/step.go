package lab

import (
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// StepCA is a step-ca with a JWK provisioner. With webhooks it also has an SCEP provisioner, and issues
// only for *.lab.test.
type StepCA struct {
	// RootFile has the root of what it issues, and of its own certificate.
	RootFile string

	dir, passwordFile, address, program string
}

// StepWebhook is a webhook of the SCEP provisioner.
type StepWebhook struct {
	Name, URL string
	Kind      string // NOTIFYING, or another one
	// Secret signs the requests (base64). Without one, step-ca signs with an empty secret, and
	// proves itself with its certificate, whose CN is "Step Online CA".
	Secret string
}

// NewStepCA makes the files of a CA with `step ca init`.
func NewStepCA(t testing.TB) *StepCA {
	t.Helper()
	dir := t.TempDir()
	c := &StepCA{
		RootFile: filepath.Join(dir, "certs/root_ca.crt"), dir: dir, address: FreeAddress(t), program: Need(t, "step-ca-dev"),
		passwordFile: writeFile(t, filepath.Join(dir, "password"), "password of the CA", 0o600),
	}
	c.step(t, "ca", "init", "--deployment-type", "standalone", "--name", "Lab", "--dns", "127.0.0.1", "--address", c.address, "--provisioner", "ops",
		"--password-file", c.passwordFile, "--provisioner-password-file", c.passwordFile)
	return c
}

// Start runs the CA until the test ends. It trusts servers of webhooks whose certificates are
// issued by the CA in trust.
func (c *StepCA) Start(t testing.TB, trust string, hooks ...StepWebhook) {
	t.Helper()
	config := filepath.Join(c.dir, "config/ca.json")
	args := []string{"serve", "-password-file", c.passwordFile}
	if len(hooks) > 0 {
		c.addSCEP(t, config, hooks)
	}
	for _, hook := range hooks {
		if hook.Secret != "" {
			args = append(args, "-webhook-secret", hook.Name+"="+hook.Secret)
		}
	}
	log := filepath.Join(c.dir, "log")
	cmd := exec.Command(c.program, append(args, config)...)
	cmd.Env = append(os.Environ(), "SSL_CERT_FILE="+trust)
	logOnFailure(t, log)
	startProcess(t, "step-ca", log, cmd).await(t, "waiting for its port", func() error { return answers(c.address) })
}

// addSCEP adds the provisioner, whose own certificate has the RSA key that SCEP needs.
func (c *StepCA) addSCEP(t testing.TB, config string, hooks []StepWebhook) {
	t.Helper()
	text, err := os.ReadFile(config)
	if err != nil {
		t.Fatal(err)
	}
	var all map[string]any
	if err := json.Unmarshal(text, &all); err != nil {
		t.Fatal(err)
	}
	var webhooks []any
	for _, hook := range hooks {
		webhooks = append(webhooks, map[string]any{"name": hook.Name, "url": hook.URL, "kind": hook.Kind, "certType": "X509", "disableTLSClientAuth": hook.Secret != ""})
	}
	decrypter := Issue(t, nil, NewKey(t, "rsa"), "SCEP", AsCA)
	authority := all["authority"].(map[string]any)
	authority["policy"] = map[string]any{"x509": map[string]any{"allow": map[string]any{"dns": []string{"*.lab.test"}, "ip": []string{"127.0.0.1"}}}}
	authority["provisioners"] = append(authority["provisioners"].([]any), map[string]any{
		"type": "SCEP", "name": "scep", "challenge": "challenge", "encryptionAlgorithmIdentifier": 2,
		"decrypterCertificate": PEM(decrypter), "decrypterKeyPEM": KeyPEM(t, decrypter.Key),
		"options": map[string]any{"webhooks": webhooks},
	})
	if text, err = json.Marshal(all); err != nil {
		t.Fatal(err)
	}
	writeFile(t, config, string(text), 0o600)
}

// Certificate issues a certificate for a name into two files.
func (c *StepCA) Certificate(t testing.TB, name, certFile, keyFile string) {
	t.Helper()
	c.step(t, "ca", "certificate", name, certFile, keyFile, "--ca-url", "https://"+c.address, "--root", c.RootFile, "--provisioner", "ops", "--provisioner-password-file", c.passwordFile, "--force")
}

// Renew runs `step ca renew --exec`.
func (c *StepCA) Renew(t testing.TB, certFile, keyFile, hook string) {
	t.Helper()
	c.step(t, "ca", "renew", certFile, keyFile, "--ca-url", "https://"+c.address, "--root", c.RootFile, "--force", "--exec", hook)
}

// SCEP gets a certificate by SCEP (RFC 8894). The error is the client's.
func (c *StepCA) SCEP(t testing.TB, name string) error {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), c.program, "scep", "-ca-file", c.RootFile, "-challenge", "challenge", "https://"+c.address+"/scep/scep", name).CombinedOutput()
	if err != nil {
		return errors.New(strings.TrimSpace(string(out)))
	}
	return nil
}

func (c *StepCA) step(t testing.TB, args ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), Need(t, "step-dev"), args...)
	cmd.Env = append(os.Environ(), "STEPPATH="+c.dir, "HOME="+c.dir)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("step %s: %v\n%s", strings.Join(args[:2], " "), err, out)
	}
	t.Logf("step: %s", out)
}
