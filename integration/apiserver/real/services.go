package main

import (
	"fmt"
	"math/rand"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
)

func registerRules(scheme *runtime.Scheme) {
	scheme.AddTypeDefaultingFunc(&corev1.Service{}, func(thing any) { defaultService(thing.(*corev1.Service)) })
	scheme.AddTypeDefaultingFunc(&corev1.ServiceList{}, func(thing any) {
		for i := range thing.(*corev1.ServiceList).Items {
			defaultService(&thing.(*corev1.ServiceList).Items[i])
		}
	})
	registerSelectors(scheme)
}

// As pkg/apis/core/v1/defaults.go.
func defaultService(service *corev1.Service) {
	spec := &service.Spec
	if spec.Type == "" {
		spec.Type = corev1.ServiceTypeClusterIP
	}
	if spec.SessionAffinity == "" {
		spec.SessionAffinity = corev1.ServiceAffinityNone
	}
	if spec.SessionAffinity == corev1.ServiceAffinityClientIP && spec.SessionAffinityConfig == nil {
		seconds := corev1.DefaultClientIPServiceAffinitySeconds
		spec.SessionAffinityConfig = &corev1.SessionAffinityConfig{ClientIP: &corev1.ClientIPConfig{TimeoutSeconds: &seconds}}
	}
	for i := range spec.Ports {
		port := &spec.Ports[i]
		if port.Protocol == "" {
			port.Protocol = corev1.ProtocolTCP
		}
		if port.TargetPort == intstr.FromInt32(0) || port.TargetPort == intstr.FromString("") {
			port.TargetPort = intstr.FromInt32(port.Port)
		}
	}
	external := spec.Type == corev1.ServiceTypeNodePort || spec.Type == corev1.ServiceTypeLoadBalancer
	if external && spec.ExternalTrafficPolicy == "" {
		spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyCluster
	}
	if spec.InternalTrafficPolicy == nil && spec.Type != corev1.ServiceTypeExternalName {
		cluster := corev1.ServiceInternalTrafficPolicyCluster
		spec.InternalTrafficPolicy = &cluster
	}
}

// Addresses and ports at random: among the few of a test none is given twice.
func prepareService(thing, old runtime.Object) {
	service := thing.(*corev1.Service)
	spec := &service.Spec
	if old != nil {
		service.Status = old.(*corev1.Service).Status
	} else {
		service.Status = corev1.ServiceStatus{}
	}
	if spec.Type == corev1.ServiceTypeExternalName {
		return
	}
	if spec.ClusterIP == "" {
		spec.ClusterIP = fmt.Sprintf("10.96.%d.%d", rand.Intn(256), 1+rand.Intn(254))
	}
	if len(spec.ClusterIPs) == 0 {
		spec.ClusterIPs = []string{spec.ClusterIP}
	}
	if spec.IPFamilyPolicy == nil {
		single := corev1.IPFamilyPolicySingleStack
		spec.IPFamilyPolicy = &single
	}
	if len(spec.IPFamilies) == 0 {
		spec.IPFamilies = []corev1.IPFamily{corev1.IPv4Protocol}
	}
	for i := range spec.Ports {
		if spec.Type != corev1.ServiceTypeClusterIP && spec.Ports[i].NodePort == 0 {
			spec.Ports[i].NodePort = 30000 + rand.Int31n(2768)
		}
	}
}

// As pkg/registry/discovery/endpointslice/strategy.go.
func prepareSlice(thing, old runtime.Object) {
	slice := thing.(*discoveryv1.EndpointSlice)
	if old == nil {
		slice.Generation = 1
		return
	}
	was := old.(*discoveryv1.EndpointSlice)
	if !equality.Semantic.DeepEqual(was.Endpoints, slice.Endpoints) || !equality.Semantic.DeepEqual(was.Ports, slice.Ports) {
		slice.Generation = was.Generation + 1
	}
}
