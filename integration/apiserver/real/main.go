// An API server from the library that kube-apiserver is made of (k8s.io/apiserver), with etcd behind it. Its lists,
// watches, caches, patches, errors and namespaces' life are the real ones. What only kube-apiserver has, each kind's
// defaults, validation and addresses, is not in that library: services.go does what the contract suite needs of it.
// Events are stored by each of their two API groups, and not validated.
package main

import (
	"encoding/base64"
	"flag"
	"fmt"
	"net"
	"os"
	"path/filepath"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	eventsv1 "k8s.io/api/events/v1"
	metainternalversion "k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/admission/initializer"
	"k8s.io/apiserver/pkg/admission/plugin/namespace/lifecycle"
	"k8s.io/apiserver/pkg/authentication/group"
	"k8s.io/apiserver/pkg/authentication/request/bearertoken"
	"k8s.io/apiserver/pkg/authentication/token/tokenfile"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizerfactory"
	apiopenapi "k8s.io/apiserver/pkg/endpoints/openapi"
	"k8s.io/apiserver/pkg/registry/rest"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/apiserver/pkg/server/options"
	"k8s.io/apiserver/pkg/storage/storagebackend"
	"k8s.io/apiserver/pkg/util/compatibility"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"

	"realserver/openapi"
)

var (
	scheme = runtime.NewScheme()
	codecs = serializer.NewCodecFactory(scheme)
)

func init() {
	utilruntime.Must(corev1.AddToScheme(scheme))
	utilruntime.Must(discoveryv1.AddToScheme(scheme))
	utilruntime.Must(eventsv1.AddToScheme(scheme))
	utilruntime.Must(metainternalversion.AddToScheme(scheme))
	metav1.AddToGroupVersion(scheme, schema.GroupVersion{Version: "v1"})
	// The internal types are those of v1.
	internal := func(group string, things ...runtime.Object) {
		scheme.AddKnownTypes(schema.GroupVersion{Group: group, Version: runtime.APIVersionInternal}, things...)
	}
	internal("", &corev1.Service{}, &corev1.ServiceList{}, &corev1.Node{}, &corev1.NodeList{},
		&corev1.Namespace{}, &corev1.NamespaceList{}, &corev1.Event{}, &corev1.EventList{})
	internal("discovery.k8s.io", &discoveryv1.EndpointSlice{}, &discoveryv1.EndpointSliceList{})
	internal("events.k8s.io", &eventsv1.Event{}, &eventsv1.EventList{})
	registerRules(scheme)
}

func run() error {
	directory := flag.String("directory", "", "for the certificate and the kubeconfig")
	port := flag.Int("port", 16443, "to listen on at 127.0.0.1")
	etcd := flag.String("etcd", "http://127.0.0.1:12379", "address of etcd")
	flag.Parse()
	if err := utilfeature.DefaultMutableFeatureGate.Set("WatchList=true"); err != nil {
		return err
	}
	config := genericapiserver.NewRecommendedConfig(codecs)
	config.EffectiveVersion = compatibility.DefaultBuildEffectiveVersion()
	names := apiopenapi.NewDefinitionNamer(scheme)
	config.OpenAPIConfig = genericapiserver.DefaultOpenAPIConfig(openapi.GetOpenAPIDefinitions, names)
	config.OpenAPIV3Config = genericapiserver.DefaultOpenAPIV3Config(openapi.GetOpenAPIDefinitions, names)

	serving := options.NewSecureServingOptions()
	serving.BindAddress, serving.BindPort = net.IPv4(127, 0, 0, 1), *port
	serving.ServerCert.CertDirectory, serving.ServerCert.PairName = *directory, "apiserver"
	if err := serving.MaybeDefaultWithSelfSignedCerts("localhost", nil, []net.IP{net.IPv4(127, 0, 0, 1)}); err != nil {
		return err
	}
	if err := serving.WithLoopback().ApplyToConfig(&config.Config); err != nil {
		return err
	}
	tokens := tokenfile.New(map[string]*user.DefaultInfo{
		"a-token": {Name: "kubernetes-admin", Groups: []string{user.SystemPrivilegedGroup}},
	})
	config.Authentication.Authenticator = group.NewAuthenticatedGroupAdder(bearertoken.New(tokens))
	config.Authorization.Authorizer = authorizerfactory.NewAlwaysAllowAuthorizer()

	stored := storagebackend.NewDefaultConfig("/registry", codecs.LegacyCodec(
		corev1.SchemeGroupVersion, discoveryv1.SchemeGroupVersion, eventsv1.SchemeGroupVersion))
	stored.Transport.ServerList = []string{*etcd}
	storing := options.NewEtcdOptions(stored)
	storing.WatchCacheSizes = []string{"events#0", "events.events.k8s.io#0"}
	if err := storing.ApplyTo(&config.Config); err != nil {
		return err
	}

	client, err := kubernetes.NewForConfig(config.LoopbackClientConfig)
	if err != nil {
		return err
	}
	config.SharedInformerFactory = informers.NewSharedInformerFactory(client, 0)
	plugin, err := lifecycle.NewLifecycle(nil)
	if err != nil {
		return err
	}
	initializer.New(client, nil, config.SharedInformerFactory, nil, utilfeature.DefaultFeatureGate, config.EffectiveVersion, nil, nil).Initialize(plugin)
	if err := admission.ValidateInitialization(plugin); err != nil {
		return err
	}
	config.AdmissionControl = plugin

	server, err := config.Complete().New("realserver", genericapiserver.NewEmptyDelegate())
	if err != nil {
		return err
	}
	for name, stores := range resources(config.RESTOptionsGetter) {
		group := genericapiserver.NewDefaultAPIGroupInfo(name, scheme, metav1.ParameterCodec, codecs)
		group.VersionedResourcesStorageMap = map[string]map[string]rest.Storage{"v1": stores}
		if name == "" {
			err = server.InstallLegacyAPIGroup("/api", &group)
		} else {
			err = server.InstallAPIGroup(&group)
		}
		if err != nil {
			return err
		}
	}
	if err := writeKubeconfig(*directory, *port); err != nil {
		return err
	}
	return server.PrepareRun().RunWithContext(genericapiserver.SetupSignalContext())
}

func writeKubeconfig(directory string, port int) error {
	certificate, err := os.ReadFile(filepath.Join(directory, "apiserver.crt"))
	if err != nil {
		return err
	}
	text := fmt.Sprintf(`apiVersion: v1
kind: Config
current-context: real
contexts: [{name: real, context: {cluster: real, user: real}}]
clusters: [{name: real, cluster: {server: "https://127.0.0.1:%d", certificate-authority-data: %s}}]
users: [{name: real, user: {token: a-token}}]
`, port, base64.StdEncoding.EncodeToString(certificate))
	return os.WriteFile(filepath.Join(directory, "kubeconfig"), []byte(text), 0o600)
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
