package events

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"strings"
	"testing"
)

// Hexadecimal digits before a key, such as a count or a color, must not hide it: two
// digits are a byte, and the key may begin at either of them.
func TestHexKeysAtEveryOffset(t *testing.T) {
	t.Parallel()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for form, secret := range map[string][]byte{"DER": der, "PEM": pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})} {
		for before := range 4 {
			for after := range 3 {
				digits := strings.Repeat("a", before) + hex.EncodeToString(secret) + strings.Repeat("f", after)
				for spelling, digits := range map[string]string{"lower": digits, "upper": strings.ToUpper(digits)} {
					_, err := Decode(nil, []byte(`{"id":"e1","certificate":"x","labels":{"note":"`+digits+`"}}`))
					if refused := (*Invalid)(nil); !errors.As(err, &refused) || !refused.HoldsKey {
						t.Errorf("%s in %s case after %d digits and before %d: %v", form, spelling, before, after, err)
					}
				}
			}
		}
	}
}
