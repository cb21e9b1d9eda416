package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"slices"

	"github.com/rs/zerolog"

	"github.com/certpost/certpost/internal/config"
	"github.com/certpost/certpost/internal/secrets"
)

// serverFiles are the files of the embedded NATS server's certificate.
func (t NATSTLSConfig) serverFiles() ServerTLSConfig {
	return ServerTLSConfig{CertFile: t.CertFile, KeyFile: t.KeyFile}
}

// openNATSCertificate returns the certificate of the embedded NATS server and its TLS; nil
// without one.
func (n *NATSConfig) openNATSCertificate(ctx context.Context, store *secrets.Store, log zerolog.Logger) (*serverCertificate, *tls.Config, error) {
	if n.URL != "" {
		return nil, nil, nil
	}
	c, err := openCertificate(ctx, embeddedNATS, n.TLS.serverFiles(), store, log)
	if c == nil || err != nil {
		return nil, nil, err
	}
	served := &tls.Config{GetCertificate: c.get, MinVersion: tls.VersionTLS12}
	if n.TLS.ClientCAFile != "" {
		if _, err := n.TLS.clientCAs(); err != nil {
			return nil, nil, fmt.Errorf("nats.tls.client_ca_file: %w", err)
		}
		// Not RequireAndVerifyClientCert: our own commands show the server's own
		// certificate, which need not be one of a client, and new CAs are read at once.
		served.ClientAuth = tls.RequireAnyClientCert
		served.VerifyConnection = func(s tls.ConnectionState) error {
			if own, _ := c.get(nil); s.PeerCertificates[0].Equal(own.Leaf) {
				return nil
			}
			return n.TLS.verifyClient(s.PeerCertificates)
		}
	}
	return c, served, nil
}

// clientCAs reads the CAs of clients.
func (t NATSTLSConfig) clientCAs() (*x509.CertPool, error) {
	text, err := readFile(t.ClientCAFile)
	if err != nil {
		return nil, fmt.Errorf("%s %w", t.ClientCAFile, config.Unreadable(err))
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("%s contains no certificate in PEM", t.ClientCAFile)
	}
	return pool, nil
}

// verifyClient checks a client's certificate against the CAs as their file is now.
func (t NATSTLSConfig) verifyClient(chain []*x509.Certificate) error {
	roots, err := t.clientCAs()
	if err != nil {
		return err
	}
	others := x509.NewCertPool()
	for _, c := range chain[1:] {
		others.AddCert(c)
	}
	_, err = chain[0].Verify(x509.VerifyOptions{Roots: roots, Intermediates: others, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	return err
}

// commandTLS is how commands connect to the embedded NATS server: nil without TLS. They
// trust exactly the certificate in cert_file, whatever its names and its CA, because a
// command knows the server by its files; with ca_file they trust that CA, for the host in
// nats.listen.
func (n *NATSConfig) commandTLS() *tls.Config {
	t := n.TLS
	if n.URL != "" || t.CertFile == "" {
		return nil
	}
	client := &tls.Config{MinVersion: tls.VersionTLS12}
	if t.ClientCAFile != "" {
		client.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			pair, err := tls.LoadX509KeyPair(t.CertFile, t.KeyFile)
			if err != nil {
				return nil, fmt.Errorf("nats.tls: the server requires a certificate of its clients: %w", err)
			}
			return &pair, nil
		}
	}
	client.InsecureSkipVerify = true // VerifyConnection does it
	client.VerifyConnection = func(s tls.ConnectionState) error {
		if t.CAFile == "" {
			return t.pinned(s.PeerCertificates[0])
		}
		return n.verifyServer(s.PeerCertificates)
	}
	return client
}

// pinned says whether a certificate is the one in cert_file.
func (t NATSTLSConfig) pinned(leaf *x509.Certificate) error {
	text, err := readFile(t.CertFile)
	if err != nil {
		return fmt.Errorf("nats.tls.cert_file: %s %w", t.CertFile, config.Unreadable(err))
	}
	own, err := firstCertificate(text)
	if err != nil {
		return fmt.Errorf("nats.tls.cert_file: %s: %w", t.CertFile, err)
	}
	if !own.Equal(leaf) {
		return fmt.Errorf("the NATS server has another certificate than %s: another program has its address, or the file was replaced some seconds ago; then try again", t.CertFile)
	}
	return nil
}

// verifyServer checks the server's certificate against ca_file, for the host in nats.listen.
func (n *NATSConfig) verifyServer(chain []*x509.Certificate) error {
	text, err := readFile(n.TLS.CAFile)
	if err != nil {
		return fmt.Errorf("nats.tls.ca_file: %s %w", n.TLS.CAFile, config.Unreadable(err))
	}
	options := x509.VerifyOptions{Roots: x509.NewCertPool(), Intermediates: x509.NewCertPool()}
	if !options.Roots.AppendCertsFromPEM(text) {
		return fmt.Errorf("nats.tls.ca_file: %s contains no certificate in PEM", n.TLS.CAFile)
	}
	for _, c := range chain[1:] {
		options.Intermediates.AddCert(c)
	}
	if options.DNSName, _, err = net.SplitHostPort(n.Listen); err != nil {
		return err
	}
	if slices.Contains([]string{"", "0.0.0.0", "::"}, options.DNSName) {
		options.DNSName = "localhost" // all addresses
	}
	_, err = chain[0].Verify(options)
	return err
}

// firstCertificate is the leaf of a PEM file.
func firstCertificate(text []byte) (*x509.Certificate, error) {
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		if block.Type == "CERTIFICATE" {
			return x509.ParseCertificate(block.Bytes)
		}
	}
	return nil, errors.New("contains no certificate in PEM")
}
