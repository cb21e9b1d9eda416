package payload

import (
	"slices"
	"strings"

	"github.com/certpost/certpost/internal/legible"
)

// maxFileName limits the part of a file name that comes from the certificate, in
// bytes; zip tools and old file systems allow 128 to 255 for the whole name.
const maxFileName = 100

// FileName turns a certificate's name into a file name that is valid on every file
// system: *.example.com becomes _wildcard.example.com, an internationalised name its
// A-labels, and a Windows device name gets a leading underscore.
func FileName(name string) string {
	if rest, ok := strings.CutPrefix(name, "*."); ok {
		name = "_wildcard." + rest
	}
	labels := strings.Split(name, ".")
	for i, label := range labels {
		labels[i], _ = legible.Domain(label)
		if !legible.Internationalised(label) {
			labels[i] = label // keeps its case
		}
	}
	name = strings.Map(func(r rune) rune {
		switch {
		case 'a' <= r && r <= 'z', 'A' <= r && r <= 'Z', '0' <= r && r <= '9', r == '.', r == '_', r == '-':
			return r
		}
		return '_'
	}, strings.Join(labels, "."))
	for strings.Contains(name, "..") {
		name = strings.ReplaceAll(name, "..", ".")
	}
	name = strings.TrimLeft(name, ".-")
	name = strings.TrimRight(name[:min(len(name), maxFileName)], ".")
	if strings.Trim(name, "_.-") == "" {
		return "certificate"
	}
	if device(name) {
		return "_" + name
	}
	return name
}

// device reports whether the file name is a device name on Windows, which ignores
// everything after the first dot.
func device(name string) bool {
	first, _, _ := strings.Cut(strings.ToUpper(name), ".")
	if len(first) == 4 && (strings.HasPrefix(first, "COM") || strings.HasPrefix(first, "LPT")) {
		return first[3] >= '0' && first[3] <= '9'
	}
	return slices.Contains([]string{"CON", "PRN", "AUX", "NUL"}, first)
}
