package main

import (
	"os"
	"strings"
	"testing"

	"github.com/alecthomas/kong"
	"github.com/goccy/go-yaml"
)

// The manifests call the program as it can be called, with a configuration that it takes, and grant
// the rights that docs/publishing.md promises; task test:kubernetes applies them to an API server.
func TestWatchKubernetesManifests(t *testing.T) {
	t.Parallel()
	type manifest struct {
		Kind  string
		Data  map[string]string
		Rules []struct{ Resources, Verbs []string }
		Spec  struct {
			Template struct {
				Spec struct{ Containers []struct{ Args []string } }
			}
			SecretTemplate struct{ Labels, Annotations map[string]string } `yaml:"secretTemplate"`
		}
	}
	found := map[string]manifest{}
	var rights []string
	for _, file := range []string{"watcher.yaml", "namespace.yaml", "certificate.yaml"} {
		text, err := os.ReadFile(root + "/examples/kubernetes/" + file)
		if err != nil {
			t.Fatal(err)
		}
		for document := range strings.SplitSeq(string(text), "\n---\n") {
			var m manifest
			if err := yaml.Unmarshal([]byte(document), &m); err != nil {
				t.Fatalf("%s: %v", file, err)
			}
			found[m.Kind] = m
			for _, r := range m.Rules {
				rights = append(rights, strings.Join(r.Resources, " ")+": "+strings.Join(r.Verbs, " "))
			}
		}
	}
	if got, want := strings.Join(rights, "; "), "leases: create; leases: get update; configmaps: create; configmaps: get update; secrets: list watch; events: create"; got != want {
		t.Errorf("rights: %s, want %s", got, want)
	}
	c := newCLI()
	parser, err := kong.New(c, kong.Name("certpost"), kong.Vars{"version": ""})
	if err != nil {
		t.Fatal(err)
	}
	args := found["Deployment"].Spec.Template.Spec.Containers[0].Args
	if k, err := parser.Parse(args); err != nil || k.Command() != "watch kubernetes" {
		t.Errorf("%q: %v", args, err)
	}
	p := publisherAt{t, t.TempDir()}
	p.write("certpost.yaml", found["ConfigMap"].Data["certpost.yaml"])
	if cfg, problems := loadConnection(p.path("certpost.yaml"), nil); len(problems) > 0 || cfg.NATS.URL == "" || cfg.Vault.Address == "" {
		t.Errorf("%v", problems)
	}
	marks := found["Certificate"].Spec.SecretTemplate
	given := map[string]string{}
	for name, value := range marks.Annotations {
		given[strings.TrimPrefix(name, "certpost.github.io/")] = value
	}
	if _, err := readAnnotations(given); err != nil || len(given) != 2 || c.Watch.Kubernetes.Selector != "certpost.github.io/publish="+marks.Labels["certpost.github.io/publish"] {
		t.Errorf("%v: %v", marks, err)
	}
}
