package secrets

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"
)

// Issuance asks Vault's PKI engine for a certificate.
type Issuance struct {
	// Path is that of the role: MOUNT/issue/ROLE.
	Path       string
	CommonName string
	// AltNames are further DNS names, IPs further addresses.
	AltNames, IPs []string
	TTL           string // a Go duration; "" is the role's
}

// IssuedPair is a new certificate and its key. Vault does not keep the key.
type IssuedPair struct {
	Chain []byte // PEM, leaf first
	Key   Value  // PEM (PKCS#8)
}

// Issue has Vault make a key and a certificate. Errors are *Error; the certificate of an answer
// that was lost stays in Vault without its key.
func (s *Store) Issue(ctx context.Context, i Issuance) (IssuedPair, error) {
	if s.vault == nil {
		return IssuedPair{}, &Error{Kind: ErrNotFound, What: "Vault is not configured", Hint: "set vault.address in the configuration, or VAULT_ADDR"}
	}
	body, err := json.Marshal(map[string]any{
		"common_name": i.CommonName, "alt_names": strings.Join(i.AltNames, ","), "ip_sans": strings.Join(i.IPs, ","), "ttl": i.TTL,
		"format": "pem", "private_key_format": "pkcs8",
	})
	if err != nil {
		return IssuedPair{}, err
	}
	ans, err := s.vault.do(ctx, request{method: http.MethodPut, path: i.Path, body: body})
	if err != nil {
		return IssuedPair{}, explained(ctx, Ref{}, err)
	}
	defer clear(ans.body)
	var said struct {
		Data struct {
			Certificate string   `json:"certificate"`
			Chain       []string `json:"ca_chain"`
			Issuer      string   `json:"issuing_ca"`
			Key         string   `json:"private_key"`
		} `json:"data"`
		Errors []string `json:"errors"`
	}
	_ = json.Unmarshal(ans.body, &said) // an answer without JSON is one without a certificate
	switch {
	case ans.status == http.StatusForbidden:
		return IssuedPair{}, &Error{Kind: ErrDenied, What: "Vault does not let Certpost's token issue at " + clean(i.Path), Hint: "its policy needs update there"}
	case ans.status == http.StatusNotFound:
		return IssuedPair{}, &Error{Kind: ErrNotFound, What: "Vault has nothing at " + clean(i.Path), Hint: "give the path as MOUNT/issue/ROLE"}
	case ans.status != http.StatusOK && len(said.Errors) > 0:
		return IssuedPair{}, &Error{Kind: ErrDenied, What: "Vault does not issue: " + clean(strings.Join(said.Errors, "; "))}
	case said.Data.Certificate == "" || said.Data.Key == "":
		return IssuedPair{}, &Error{Kind: ErrDenied, What: clean(i.Path) + " is no role of a PKI engine that issues with a key", Hint: "give the path as MOUNT/issue/ROLE"}
	}
	chain := said.Data.Chain
	if len(chain) == 0 && said.Data.Issuer != "" {
		chain = []string{said.Data.Issuer}
	}
	text := strings.Join(append([]string{said.Data.Certificate}, chain...), "\n") + "\n"
	return IssuedPair{[]byte(text), New([]byte(strings.TrimSpace(said.Data.Key) + "\n"))}, nil
}
