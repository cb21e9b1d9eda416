//go:build apiserver

package deployments

import (
	"encoding/json"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/certpost/certpost/internal/lab"
)

// TestHelmAPIServer installs the chart with every file of values into namespaces of a real API
// server that take only restricted pods, upgrades it and removes it. A warning is a failure. No
// pod runs: there are no controllers and kubelets.
func TestHelmAPIServer(t *testing.T) {
	helm := lab.Need(t, "helm")
	k := lab.Kubernetes(t)
	for _, crds := range []struct{ module, files string }{
		{"github.com/kedacore/keda/v2@v2.21.0", "config/crd/bases/keda.sh_scaledobjects.yaml"},
		{"github.com/prometheus-operator/prometheus-operator@v0.85.0", "example/prometheus-operator-crd/monitoring.coreos.com_[sp]*[rm]*.yaml"},
	} {
		var module struct{ Dir string }
		if err := json.Unmarshal([]byte(lab.Output(t, "go", "mod", "download", "-json", crds.module)), &module); err != nil {
			t.Fatal(err)
		}
		files, err := filepath.Glob(filepath.Join(module.Dir, crds.files))
		if err != nil || len(files) == 0 {
			t.Fatalf("%s: %q, %v", crds.module, files, err)
		}
		for _, file := range files {
			name := strings.TrimSuffix(filepath.Base(file), ".yaml")
			group, plural, _ := strings.Cut(name, "_")
			k.Apply(t, "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/"+plural+"."+group, read(t, file))
		}
	}
	values, err := filepath.Glob("helm/certpost/ci/*.yaml")
	if err != nil || len(values) == 0 {
		t.Fatalf("%q, %v", values, err)
	}
	for _, file := range values {
		name := strings.TrimSuffix(filepath.Base(file), ".yaml")
		t.Run(name, func(t *testing.T) {
			labels := map[string]string{}
			for _, mode := range []string{"enforce", "warn", "audit"} {
				labels["pod-security.kubernetes.io/"+mode] = "restricted"
			}
			k.Create(t, "/api/v1/namespaces", map[string]any{"metadata": map[string]any{"name": name, "labels": labels}})
			kubeconfig := filepath.Join(t.TempDir(), "kubeconfig")
			lab.Write(t, kubeconfig, []byte(k.Kubeconfig("", name)))
			run := func(args ...string) {
				t.Helper()
				cmd := exec.CommandContext(t.Context(), helm, append(args, "--namespace", name, "--kubeconfig", kubeconfig)...)
				cmd.Env = append(os.Environ(), "HELM_CACHE_HOME="+t.TempDir(), "HELM_CONFIG_HOME="+t.TempDir(), "HELM_DATA_HOME="+t.TempDir())
				if out, err := cmd.CombinedOutput(); err != nil || strings.Contains(strings.ToLower(string(out)), "warning") {
					t.Errorf("helm %s: %v\n%s", args[0], err, out)
				}
			}
			run("install", "certpost", "helm/certpost", "--values", file)
			admitPod(t, k, name)
			run("upgrade", "certpost", "helm/certpost", "--values", file, "--set", "terminationGracePeriodSeconds=90")
			run("uninstall", "certpost")
		})
	}
}

// admitPod makes the pod that a controller would make of the workload, which the namespace must admit.
func admitPod(t *testing.T, k *lab.KubernetesServer, namespace string) {
	t.Helper()
	for _, kind := range []string{"deployments", "statefulsets"} {
		status, workload := k.Call(t, "", http.MethodGet, "/apis/apps/v1/namespaces/"+namespace+"/"+kind+"/certpost", nil)
		if status == http.StatusNotFound {
			continue
		}
		template := workload["spec"].(map[string]any)["template"].(map[string]any)
		spec := template["spec"].(map[string]any)
		if kind == "statefulsets" { // a volume of the claim
			spec["volumes"] = append(spec["volumes"].([]any), map[string]any{"name": "data", "persistentVolumeClaim": map[string]any{"claimName": "data-certpost-0"}})
		}
		metadata := template["metadata"].(map[string]any)
		metadata["name"] = "certpost-0"
		k.Create(t, "/api/v1/namespaces/"+namespace+"/pods", map[string]any{"metadata": metadata, "spec": spec})
		return
	}
	t.Error("no workload was installed")
}
