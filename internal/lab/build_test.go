package lab

import (
	"os/exec"
	"strings"
	"testing"
)

func TestBuild(t *testing.T) {
	t.Parallel()
	program := Build(t)
	out, err := exec.CommandContext(t.Context(), program, "version").CombinedOutput()
	if err != nil || !strings.Contains(string(out), "certpost") {
		t.Errorf("certpost version: %v\n%s", err, out)
	}
}
