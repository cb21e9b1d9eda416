package delivery

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/certpost/certpost/internal/encryption"
	"github.com/certpost/certpost/internal/lab"
	"github.com/certpost/certpost/internal/payload"
)

// Every kind of payload says how to open it with OpenSSL, Java, Windows and macOS, with the
// names of its files; and the commands for OpenSSL and Java work as they stand there.
func TestCommandsOpenTheFiles(t *testing.T) {
	t.Parallel()
	shell := lab.Need(t, "sh")
	setsid := lab.Need(t, "setsid")
	lab.Need(t, "openssl")
	lab.Need(t, "keytool")
	lab.Need(t, "unzip")
	const password = "test-passphrase"
	for _, kind := range payload.Kinds {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			target := testTarget()
			target.Payload = kind
			p := lab.NewPKI(t, "p256")
			b, err := payload.ParseBundle(lab.PEM(p.Leaf, p.Intermediate))
			if err != nil {
				t.Fatal(err)
			}
			files, err := payload.Build(target.settings(nil), b, lab.KeyPEM(t, p.Leaf.Key), []byte(password), lab.TestNow)
			if err != nil {
				t.Fatal(err)
			}
			all := howToOpen(target, files)
			var programs []string
			for _, one := range all {
				programs = append(programs, one.Program)
			}
			for _, system := range []string{"OpenSSL", "Java", "Windows", "macOS"} {
				if !strings.Contains(strings.Join(programs, " "), system) {
					t.Errorf("nothing is said of %s", system)
				}
			}
			for _, one := range all {
				if !strings.Contains(one.Command, files[0].Name) || strings.Contains(one.Command, "FILE") || strings.Contains(one.Command, "NAME") || strings.Contains(one.Command, "KEY") {
					t.Errorf("the command is %s", one.Command)
				}
				if !strings.Contains(one.Command, "openssl") && !strings.Contains(one.Command, "keytool") {
					continue // there is no Windows and no macOS here
				}
				dir := t.TempDir()
				for _, f := range files {
					lab.Write(t, filepath.Join(dir, f.Name), f.Data)
				}
				// Without a terminal the programs read their passwords from here.
				cmd := exec.Command(setsid, "--wait", shell, "-c", one.Command)
				cmd.Dir, cmd.Stdin = dir, strings.NewReader(strings.Repeat(password+"\n", 4))
				out, err := cmd.CombinedOutput()
				if err != nil {
					t.Errorf("%s: %v\n%s", one.Command, err, out)
				}
			}
		})
	}
}

// Files that are encrypted with age are decrypted first.
func TestCommandsForAge(t *testing.T) {
	t.Parallel()
	target := testTarget()
	target.Encryption = encryption.Age
	got := fmt.Sprint(howToOpen(target, []payload.Attachment{{Name: "web1.pem.age"}})[:2])
	if want := "[{age age --decrypt -i KEYFILE -o web1.pem web1.pem.age} {OpenSSL openssl x509 -in web1.pem -noout -text}]"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	target.Encryption = ""
	if got := howToOpen(target, []payload.Attachment{{Name: "KEY.FILE.pem"}})[0].Command; got != "openssl x509 -in KEY.FILE.pem -noout -text" {
		t.Errorf("got %s", got)
	}
	if !slices.Equal(howToOpen(target, nil), nil) {
		t.Error("commands for no file")
	}
}
