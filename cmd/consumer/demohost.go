package main

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/certpost/certpost/internal/devrelay"
	"github.com/certpost/certpost/internal/mailhost"
)

// demoHostName is the name of the demo's mail host, which its certificates are for.
const demoHostName = "mx.example.com"

// demoHost is the mail server of the demo's mail host: a relay whose certificate is the file
// that a target deploys. It needs no reload command, because it looks at the file by itself.
type demoHost struct {
	relay  *devrelay.Relay
	file   string            // key, leaf, chain
	before *x509.Certificate // what it served before the deployment
}

// openHost starts the demo's mail server with a first certificate, as an administrator would
// have set it up. Where certificates cannot be deployed, because of the system or of who may write
// to the directory of temporary files, there is none, and noHost says why.
func (d *demo) openHost(ctx context.Context) error {
	dir := filepath.Join(d.dir, "mailhost")
	h := &demoHost{file: filepath.Join(dir, "mx.pem")}
	chain, key, err := d.authority.issue(demoHostName)
	if err != nil {
		return err
	}
	if err := errors.Join(os.Mkdir(dir, 0o700), os.WriteFile(h.file, append(key, chain...), 0o600)); err != nil {
		return err
	}
	h.relay, err = devrelay.Start(devrelay.Config{
		Hostname: demoHostName, Certificate: devrelay.CertificateFiles{Cert: h.file}, Opportunistic: true, RequireTLS: true, Discard: true,
	})
	if err != nil {
		return err
	}
	for _, finding := range (mailhost.Deployer{}).Plan(ctx, h.deployment(), nil) {
		if finding.Failed {
			d.noHost = finding.Text
			return h.relay.Close()
		}
	}
	d.host = h
	h.before, err = h.served(ctx)
	return err
}

func (h *demoHost) deployment() mailhost.Deployment {
	return mailhost.Deployment{CertPath: h.file, KeyPath: h.file, Verify: mailhost.Verification{
		Endpoints: []mailhost.Endpoint{{Address: h.relay.Plain(), Protocol: mailhost.SMTP}}, ServerName: demoHostName,
	}}
}

// served returns the certificate that the mail server serves, asked by SMTP with STARTTLS.
func (h *demoHost) served(ctx context.Context) (*x509.Certificate, error) {
	seen := mailhost.Deployer{}.Inspect(ctx, h.deployment())
	if len(seen.Served) != 1 || seen.Served[0].Problem != "" {
		return nil, fmt.Errorf("the demo's mail server does not serve the certificate in %s: %+v", h.file, seen.Served)
	}
	return seen.Served[0].Leaf, nil
}

// target is the definition that deploys to the mail server.
func (h *demoHost) target() string {
	return fmt.Sprintf(`  - id: demo-mx                     # the certificate of a mail server, which the demo is, too
    type: file
    host: demo
    cert_path: %[1]q
    key_path: %[1]q
    post_deploy_verify: {endpoint: %[2]q, protocol: smtp, server_name: %[3]s}
`, h.file, h.relay.Plain(), demoHostName)
}

// hostReport says which certificate was served before the deployment and which one is now, or why
// there was none. It fails if the new one is not served.
func (d *demo) hostReport(ctx context.Context) (string, error) {
	h := d.host
	if h == nil {
		return "No certificate was deployed to a mail server: " + d.noHost + ".", nil
	}
	now, err := h.served(ctx)
	if err != nil {
		return "", err
	}
	if now.Equal(h.before) {
		return "", fmt.Errorf("the demo's mail server still serves serial %x", h.before.SerialNumber)
	}
	return fmt.Sprintf("%s at %s served serial %x before the deployment, and serves %x now.", demoHostName, h.relay.Plain(), h.before.SerialNumber, now.SerialNumber), nil
}
