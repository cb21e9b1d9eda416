package deployments

import (
	"crypto/x509"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/nats-io/nkeys"

	"github.com/certpost/certpost/internal/lab"
)

// manifest is an object that the chart makes.
type manifest struct {
	Kind     string
	Metadata struct{ Name string }
	Data     map[string]string
	Spec     struct {
		Replicas int
		Groups   any
		Template struct {
			Spec struct {
				AutomountServiceAccountToken *bool `yaml:"automountServiceAccountToken"`
				Containers                   []struct {
					Image           string
					Args            []string
					Env             []struct{ Name string }
					SecurityContext struct {
						ReadOnlyRootFilesystem bool `yaml:"readOnlyRootFilesystem"`
						Capabilities           struct{ Drop []string }
					} `yaml:"securityContext"`
					VolumeMounts []struct {
						Name      string
						MountPath string `yaml:"mountPath"`
					} `yaml:"volumeMounts"`
				}
				Volumes []struct{ Name string }
			}
		}
		VolumeClaimTemplates []struct{ Metadata struct{ Name string } } `yaml:"volumeClaimTemplates"`
	}
}

// rendered are the objects of the chart with a file of values. The check of the chart refuses
// what the linter warns of, and fields that Kubernetes does not know.
func rendered(t *testing.T, values string) map[string]manifest {
	t.Helper()
	objects := map[string]manifest{}
	for document := range strings.SplitSeq(lab.Output(t, lab.Need(t, "chart-check"), "helm/certpost", values, "mail"), "---\n") {
		if strings.TrimSpace(document) == "" {
			continue
		}
		var m manifest
		if err := yaml.Unmarshal([]byte(document), &m); err != nil {
			t.Fatalf("%s: %v\n%s", values, err, document)
		}
		objects[m.Kind] = m
	}
	return objects
}

// TestHelm renders the chart with each file of helm/certpost/ci: `certpost check` takes the
// configuration that it makes, with the files and variables that its pod has, and no others.
func TestHelm(t *testing.T) {
	t.Parallel()
	common := []string{"ConfigMap", "PodDisruptionBudget", "Service"}
	want := map[string][]string{
		"replicas":   {"Deployment", "NetworkPolicy", "ServiceAccount"},
		"embedded":   {"StatefulSet", "NetworkPolicy", "ServiceAccount"},
		"autoscaled": {"Deployment", "HorizontalPodAutoscaler"},
		"everything": {"Deployment", "NetworkPolicy", "PrometheusRule", "ScaledObject", "ServiceAccount", "ServiceMonitor"},
	}
	files, err := filepath.Glob("helm/certpost/ci/*.yaml")
	if err != nil || len(files) != len(want) {
		t.Fatalf("%q, %v", files, err)
	}
	for _, values := range files {
		name := strings.TrimSuffix(filepath.Base(values), ".yaml")
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			objects := rendered(t, values)
			kinds := slices.Concat(common, want[name])
			for kind := range objects {
				if !slices.Contains(kinds, kind) {
					t.Errorf("it makes a %s", kind)
				}
			}
			for _, kind := range kinds {
				if objects[kind].Kind == "" {
					t.Errorf("it makes no %s", kind)
				}
			}
			workload := objects["Deployment"]
			if workload.Kind == "" {
				workload = objects["StatefulSet"]
			}
			checkPod(t, workload, objects["ConfigMap"].Data["certpost.yaml"])
			if rules, made := objects["PrometheusRule"]; made {
				var original struct{ Groups any }
				if err := yaml.Unmarshal([]byte(read(t, "prometheus/certpost.rules.yml")), &original); err != nil || !reflect.DeepEqual(rules.Spec.Groups, original.Groups) {
					t.Errorf("the rules are others than those of prometheus/: %v", err)
				}
			}
		})
	}
}

// passwordHash is the value of each variable: no relay and no NATS server is asked.
const passwordHash = "$argon2id$v=19$m=32768,t=3,p=1$8Gz33XDAY9a3GzViGEvfqg$+M9CYMVXGRlZ0XERkBY6UQTPRGpxBylaAZgx8TP+e9s"

func checkPod(t *testing.T, workload manifest, configuration string) {
	t.Helper()
	pod := workload.Spec.Template.Spec
	if len(pod.Containers) != 1 || pod.AutomountServiceAccountToken == nil || *pod.AutomountServiceAccountToken {
		t.Fatalf("pod: %+v", pod)
	}
	c := pod.Containers[0]
	if !c.SecurityContext.ReadOnlyRootFilesystem || !slices.Equal(c.SecurityContext.Capabilities.Drop, []string{"ALL"}) || !strings.HasPrefix(c.Image, "registry.example.com/certpost") || !slices.Equal(c.Args, []string{"--config=/etc/certpost/certpost.yaml", "run"}) {
		t.Errorf("container: %+v", c)
	}
	var volumes []string
	for _, v := range pod.Volumes {
		volumes = append(volumes, v.Name)
	}
	for _, v := range workload.Spec.VolumeClaimTemplates {
		volumes = append(volumes, v.Metadata.Name)
	}
	root := t.TempDir()
	for _, m := range c.VolumeMounts {
		if !slices.Contains(volumes, m.Name) {
			t.Errorf("%s is mounted and is no volume of %q", m.Name, volumes)
		}
		if err := os.MkdirAll(filepath.Join(root, m.MountPath), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if len(volumes) != len(c.VolumeMounts) {
		t.Errorf("volumes %q, mounts %+v", volumes, c.VolumeMounts)
	}
	// What the configuration names exists only where the pod mounts it.
	valid := func(c *x509.Certificate) {
		c.NotBefore, c.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(90*24*time.Hour)
	}
	seed, err := nkeys.CreateUser()
	if err != nil {
		t.Fatal(err)
	}
	nk, err := seed.Seed()
	if err != nil {
		t.Fatal(err)
	}
	pair := lab.Issue(t, nil, lab.NewKey(t, "p256"), "certpost.example.com", lab.DNSNames("certpost.example.com"), valid)
	for path, text := range map[string][]byte{
		"certpost-tls/tls.crt": lab.PEM(pair), "certpost-tls/tls.key": lab.KeyPEM(t, pair.Key), "vault-ca/ca.crt": lab.PEM(pair), "vault/token": []byte("token"),
		"certpost-metrics/token": []byte(strings.Repeat("m", 32)), "certpost-metrics/metrics": []byte(strings.Repeat("m", 32)),
		"certpost/certpost-nats/certpost.nk": nk, "certpost/certpost-audit/key": []byte(strings.Repeat("ab", 32)),
	} {
		at := filepath.Join(root, "var/run/secrets", path)
		if _, err := os.Stat(filepath.Dir(at)); err == nil {
			lab.Write(t, at, text)
		}
	}
	file := filepath.Join(root, "etc/certpost/certpost.yaml")
	lab.Write(t, file, []byte(regexp.MustCompile(`/var/(run|lib)/`).ReplaceAllString(configuration, root+"$0")))
	check := exec.CommandContext(t.Context(), lab.Build(t), "-c", file, "check")
	check.Env = []string{"PATH=" + os.Getenv("PATH")}
	for _, v := range c.Env {
		check.Env = append(check.Env, v.Name+"="+passwordHash)
	}
	if out, err := check.CombinedOutput(); err != nil || !strings.Contains(string(out), ", 0 warnings") {
		t.Errorf("certpost check: %v\n%s\n%s", err, out, configuration)
	}
}

// TestHelmRefuses: values that cannot work are refused before anything is installed, with a reason.
func TestHelmRefuses(t *testing.T) {
	t.Parallel()
	text := read(t, "helm/certpost/ci/replicas.yaml")
	embedded := read(t, "helm/certpost/ci/embedded.yaml")
	for _, test := range []struct{ values, old, new, want string }{
		{text, "url: https://certpost.example.com", "url: http://certpost.example.com", "url"},
		{text, "image: {repository", "image: {repositry", "repositry"},
		{text, "tls: {secretName: certpost-tls}", "", "tls"},
		{text, "    sign_in:", "    listen: 0.0.0.0:80\n    sign_in:", "listen"},
		{text, "role: certpost}", "}", "vault.address needs vault.role"},
		{text, "config:\n", "config:\n  vault: {address: https://other.example.com}\n", "vault is given twice"},
		{text, "metrics: {tokenSecret: {name: certpost-metrics}}", "monitoring: {serviceMonitor: true}", "monitoring.serviceMonitor needs metrics.tokenSecret"},
		{text, "image:", "keda: {enabled: true}\nimage:", "keda.enabled needs keda.prometheus"},
		{text, "image:", "keda: {enabled: true, prometheus: \"http://p:9090\"}\nautoscaling: {enabled: true}\nimage:", "enable one of them"},
		{embedded, "replicas: 1", "replicas: 2", "replicas above 1 need config.nats.url"},
		{embedded, "image:", "autoscaling: {enabled: true}\nimage:", "autoscaling and keda need config.nats.url"},
	} {
		values := filepath.Join(t.TempDir(), "values.yaml")
		changed := strings.Replace(test.values, test.old, test.new, 1)
		if changed == test.values {
			t.Fatalf("nothing to replace: %s", test.old)
		}
		lab.Write(t, values, []byte(changed))
		out, err := exec.CommandContext(t.Context(), lab.Need(t, "chart-check"), "helm/certpost", values, "mail").CombinedOutput()
		if err == nil || !strings.Contains(string(out), test.want) {
			t.Errorf("%s: %v, without %q:\n%s", test.new, err, test.want, out)
		}
	}
}

// TestChartCheck: the check sees what an API server would refuse, and what `helm lint` does not.
func TestChartCheck(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ file, old, new, want string }{
		{"workload.yaml", "  replicas: ", "  replicaz: ", `unknown field "spec.replicaz"`},
		{"service.yaml", "kind: Service", "kind: Servize", "Servize"},
		{"_pod.tpl", "readOnlyRootFilesystem: true", "readOnlyRootFilesystem: certainly", "readOnlyRootFilesystem"},
	} {
		root := t.TempDir()
		dir := filepath.Join(root, "helm", "certpost")
		for _, d := range []string{"helm/certpost", "prometheus"} { // a link leads from one to the other
			if err := os.CopyFS(filepath.Join(root, d), os.DirFS(d)); err != nil {
				t.Fatal(err)
			}
		}
		at := filepath.Join(dir, "templates", test.file)
		text := read(t, at)
		changed := strings.Replace(text, test.old, test.new, 1)
		if changed == text {
			t.Fatalf("%s: nothing to replace: %s", test.file, test.old)
		}
		lab.Write(t, at, []byte(changed))
		out, err := exec.CommandContext(t.Context(), lab.Need(t, "chart-check"), dir, "helm/certpost/ci/replicas.yaml", "mail").CombinedOutput()
		if err == nil || !strings.Contains(string(out), test.want) {
			t.Errorf("%s: %v, without %q:\n%s", test.new, err, test.want, out)
		}
	}
}
