package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"time"

	"github.com/certpost/certpost/internal/delivery"
	"github.com/certpost/certpost/internal/events"
)

// rehearse refuses flags with which no certificate could be published, before there is one: it makes
// the event of a sample certificate, by the rules of a publication. The event is returned.
func (c *publishCmd) rehearse() (*events.Event, error) {
	cert, err := sampleCertificate()
	if err != nil {
		return nil, err
	}
	p := publication{lineage: "www.example.com", keyFile: "/etc/ssl/private/www.example.com.key"}
	if p.ev, err = events.FromPEM(cert); err != nil {
		return nil, err
	}
	p.ev.Source = "file:///www.example.com"
	if err := c.complete(&p); err != nil {
		return nil, err
	}
	ev, err := decoded(p.ev)
	if err != nil || c.StoreKey == "" {
		return ev, err
	}
	leaf, err := ev.Leaf()
	if err != nil {
		return nil, err
	}
	place, err := c.storePlace(p, leaf)
	ev.PrivateKey = eventReference(place)
	return ev, err
}

// rehearseWith is rehearse, and refuses what the configuration allows no event with these flags.
// What only some targets cannot get is a warning, as it is for a certificate.
func (c *publishCmd) rehearseWith(a *app, cfg *Config) error {
	ev, err := c.rehearse()
	if err != nil {
		return err
	}
	if err := c.refuse(a, closed(cfg, ev)); err != nil {
		return err
	}
	cfg.openBook(configPath(a.config, a.env), a.env) // with errors there is no book
	if len(ev.Targets) == 0 || cfg.Book == nil || len(cfg.Book.Current().All()) == 0 {
		return nil
	}
	routes, failure := delivery.NewCourier(cfg.Book, nil, cfg.courierOptions()).Resolve(a.ctx, ev)
	if failure != nil {
		return c.refuse(a, []string{reasonOf(failure)})
	}
	var problems []string
	for _, route := range routes {
		if route.Failure != nil {
			problems = append(problems, reasonOf(route.Failure))
		}
	}
	if len(problems) == len(routes) {
		return c.refuse(a, limited(problems))
	}
	c.warnOfSome(a, problems)
	return nil
}

// sampleCertificate returns a certificate for www.example.com as PEM. Its key is gone.
func sampleCertificate() ([]byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		Subject: pkix.Name{CommonName: "www.example.com"}, DNSNames: []string{"www.example.com"}, SerialNumber: big.NewInt(1),
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(0, 0, 90),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), nil
}
