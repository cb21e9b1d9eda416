package deployments

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/certpost/certpost/internal/lab"
)

// TestDockerfile has BuildKit's own parser and linter read the Dockerfile. The image that it ends
// with has no shell, belongs to nobody's user, and is built from everything that the program needs.
func TestDockerfile(t *testing.T) {
	t.Parallel()
	check := lab.Need(t, "containers-check")
	said := lab.Output(t, check, "dockerfile", "docker/Dockerfile")
	_, last, found := strings.Cut(said, "\nFROM scratch\n")
	for _, want := range []string{"USER 65532:65532", `ENTRYPOINT ["certpost"]`, `CMD ["run"]`, "VOLUME /var/lib/certpost", "COPY --from=build --chown=65532:65532 /image/ /"} {
		if !found || !strings.Contains("\n"+last, "\n"+want+"\n") {
			t.Errorf("the image has no %q:\n%s", want, said)
		}
	}
	if strings.Contains(last, "\nRUN") {
		t.Error("there is nothing in the image that could run a command")
	}

	// Whatever is not named in the ignore file does not reach the build.
	ignored := read(t, "docker/Dockerfile.dockerignore")
	packages, err := exec.CommandContext(t.Context(), "go", "list", "-deps", "-f", "{{if not .Standard}}{{with .Module}}{{if .Main}}{{$.Dir}}{{end}}{{end}}{{end}}", "../cmd/consumer").Output()
	dirs := strings.Fields(string(packages))
	if err != nil || len(dirs) < 20 {
		t.Fatalf("go list: %v, %q", err, dirs)
	}
	for _, dir := range dirs {
		name, err := filepath.Rel(lab.Root(), dir)
		if err != nil {
			t.Fatal(err)
		}
		if top, _, _ := strings.Cut(filepath.ToSlash(name), "/"); !strings.Contains(ignored, "\n!"+top+"\n") {
			t.Errorf("docker/Dockerfile.dockerignore leaves out %s", name)
		}
	}
}

// TestContainersCheck: the check refuses what Docker would refuse.
func TestContainersCheck(t *testing.T) {
	t.Parallel()
	check := lab.Need(t, "containers-check")
	for name, test := range map[string]struct{ kind, text, want string }{
		"an unknown instruction": {"dockerfile", "FROM scratch\nRUNN x\n", "unknown instruction: RUNN"},
		"a lint":                 {"dockerfile", "FROM scratch AS Build\nCOPY a b\n", "StageNameCasing"},
		"an unknown key":         {"compose", "services: {a: {image: x, cap_dropp: [ALL]}}\n", "cap_dropp"},
		"an undefined service":   {"compose", "services: {a: {image: x, depends_on: [b]}}\n", "undefined service"},
		"an unset variable":      {"compose", "services: {a: {image: \"${NOT_SET_ANYWHERE:?run setup}\"}}\n", "run setup"},
	} {
		file := filepath.Join(t.TempDir(), "file")
		lab.Write(t, file, []byte(test.text))
		out, err := exec.CommandContext(t.Context(), check, test.kind, file).CombinedOutput()
		if err == nil || !strings.Contains(string(out), test.want) {
			t.Errorf("%s: %v\n%s", name, err, out)
		}
	}
}
