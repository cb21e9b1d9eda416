// Command step-ca-dev is a real step-ca for integration tests, and an SCEP client for it.
//
//	step-ca-dev serve [-webhook-secret NAME=BASE64] -password-file FILE CONFIG
//	step-ca-dev scep -ca-file FILE -challenge TEXT URL NAME
//
// serve is step-ca without the key managers of cloud vendors. step-ca keeps the secrets of webhooks
// in a database that only its own tools fill; -webhook-secret gives one to a webhook of the file.
package main

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/smallstep/certificates/authority/config"
	"github.com/smallstep/certificates/authority/provisioner"
	"github.com/smallstep/certificates/ca"
	_ "github.com/smallstep/certificates/cas/softcas"
	"github.com/smallstep/scep"
	scepx509 "github.com/smallstep/scep/x509util"
	_ "go.step.sm/crypto/kms/softkms"
)

func main() {
	commands := map[string]func([]string) error{"serve": serve, "scep": enroll}
	if len(os.Args) < 2 || commands[os.Args[1]] == nil {
		fmt.Fprintln(os.Stderr, "usage: step-ca-dev serve|scep ...")
		os.Exit(2)
	}
	if err := commands[os.Args[1]](os.Args[2:]); err != nil {
		fmt.Fprintln(os.Stderr, "step-ca-dev:", err)
		os.Exit(1)
	}
}

// serve runs until it is told to stop.
func serve(args []string) error {
	flags := flag.NewFlagSet("serve", flag.ExitOnError)
	passwordFile := flags.String("password-file", "", "`file` with the password of the CA's key")
	secret := flags.String("webhook-secret", "", "`NAME=BASE64`: the secret of a webhook")
	flags.Parse(args)
	cfg, err := config.LoadConfiguration(flags.Arg(0))
	if err != nil {
		return err
	}
	for _, p := range cfg.AuthorityConfig.Provisioners {
		if s, ok := p.(*provisioner.SCEP); ok && s.Options != nil {
			for _, hook := range s.Options.Webhooks {
				if name, text, _ := strings.Cut(*secret, "="); name == hook.Name {
					hook.Secret = text
				}
			}
		}
	}
	password, err := os.ReadFile(*passwordFile)
	if err != nil {
		return err
	}
	server, err := ca.New(cfg, ca.WithConfigFile(flags.Arg(0)), ca.WithPassword(bytes.TrimSpace(password)))
	if err != nil {
		return err
	}
	go ca.StopReloaderHandler(server)
	if err := server.Run(); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// enroll gets one certificate by SCEP (RFC 8894), and throws it away.
func enroll(args []string) error {
	flags := flag.NewFlagSet("scep", flag.ExitOnError)
	caFile := flags.String("ca-file", "", "`file` with the root of the server's certificate")
	challenge := flags.String("challenge", "", "challenge password")
	flags.Parse(args)
	endpoint, name := flags.Arg(0), flags.Arg(1)
	roots := x509.NewCertPool()
	text, err := os.ReadFile(*caFile)
	if err != nil {
		return err
	}
	roots.AppendCertsFromPEM(text)
	client := &http.Client{Timeout: time.Minute, Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}}
	answer, err := call(client.Get(endpoint + "?operation=GetCACert"))
	if err != nil {
		return err
	}
	authorities, err := scep.CACerts(answer)
	if err != nil { // a single certificate comes as it is
		if authorities, err = x509.ParseCertificates(answer); err != nil {
			return err
		}
	}
	recipients := slices.DeleteFunc(slices.Clone(authorities), func(c *x509.Certificate) bool { return c.PublicKeyAlgorithm != x509.RSA })
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return err
	}
	request, err := certificateRequest(name, *challenge, key)
	if err != nil {
		return err
	}
	// The request is signed with a certificate of its own key.
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: request.Subject, NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return err
	}
	own, err := x509.ParseCertificate(der)
	if err != nil {
		return err
	}
	message, err := scep.NewCSRRequest(request, &scep.PKIMessage{MessageType: scep.PKCSReq, Recipients: recipients, SignerCert: own, SignerKey: key})
	if err != nil {
		return err
	}
	answer, err = call(client.Post(endpoint+"?operation=PKIOperation", "application/x-pki-message", bytes.NewReader(message.Raw)))
	if err != nil {
		return err
	}
	reply, err := scep.ParsePKIMessage(answer, scep.WithCACerts(authorities))
	if err != nil {
		return err
	}
	if reply.PKIStatus != scep.SUCCESS {
		return fmt.Errorf("the CA refused: %s", reply.FailInfo)
	}
	if err := reply.DecryptPKIEnvelope(own, key); err != nil {
		return err
	}
	fmt.Println(reply.CertRepMessage.Certificate.Subject.CommonName)
	return nil
}

func certificateRequest(name, challenge string, key *rsa.PrivateKey) (*x509.CertificateRequest, error) {
	der, err := scepx509.CreateCertificateRequest(rand.Reader, &scepx509.CertificateRequest{
		CertificateRequest: x509.CertificateRequest{Subject: pkix.Name{CommonName: name}, DNSNames: []string{name}}, ChallengePassword: challenge,
	}, key)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificateRequest(der)
}

// call returns the body of an answer.
func call(response *http.Response, err error) ([]byte, error) {
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return nil, errors.New(response.Status)
	}
	return io.ReadAll(response.Body)
}
