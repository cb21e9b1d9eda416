package delivery

import (
	"fmt"
	"strings"

	"github.com/certpost/certpost/internal/config"
	"github.com/certpost/certpost/internal/legible"
)

// sharedFiles reports files that two targets on one host have: what is deployed second finds the certificate
// there, is unchanged, and its program is never told.
func sharedFiles(options [][]relayOption, name func(int) string) (found []config.Problem) {
	type place struct{ host, path string }
	first := map[place]int{}
	for i := range options {
		t := options[i][0].Target
		if !t.onHost() || t.Disabled {
			continue
		}
		for _, file := range []struct{ key, path string }{{"cert_path", t.CertPath}, {"key_path", t.KeyPath}, {"chain_path", t.ChainPath}} {
			at := place{strings.ToLower(t.Host), file.path}
			switch other, taken := first[at]; {
			case file.path == "":
			case !taken:
				first[at] = i
			case other != i:
				found = append(found, config.Problem{Path: name(i) + "." + file.key, Message: fmt.Sprintf(
					"%s is also a file of %s (%s): the second deployment would find the certificate there and not reload its program; give each target files of its own",
					legible.Clean(file.path, 300), name(other), options[other][0].ID)})
			}
		}
	}
	return found
}
