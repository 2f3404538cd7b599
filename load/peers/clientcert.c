/* LD_PRELOAD for wrk, which cannot be given a client certificate: every TLS context gets the one named by
 * BENCH_CLIENT_CERT and BENCH_CLIENT_KEY (PEM), TLS 1.3 only, and offers http/1.1. It offers one cipher suite, so
 * that all contenders encrypt alike: left to themselves Envoy picks 128-bit keys, and we refuse fewer than 256.
 *
 * The functions are looked up in the OpenSSL that wrk is linked with, so that its headers are not needed to build this.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>

#define SUITE "TLS_AES_256_GCM_SHA384"

enum { SET_MIN_PROTO_VERSION = 123, TLS_1_3 = 0x0304, PEM = 1 }; /* values of openssl/ssl.h, part of its ABI */

static void *find(const char *name)
{
    void *found = dlsym(RTLD_NEXT, name);
    if (!found) {
        fprintf(stderr, "clientcert: no %s: is wrk linked with OpenSSL 1.1.1 or later?\n", name);
        exit(1);
    }
    return found;
}

void *SSL_CTX_new(const void *method)
{
    void *(*make)(const void *) = find("SSL_CTX_new");
    int (*use_chain)(void *, const char *) = find("SSL_CTX_use_certificate_chain_file");
    int (*use_key)(void *, const char *, int) = find("SSL_CTX_use_PrivateKey_file");
    long (*control)(void *, int, long, void *) = find("SSL_CTX_ctrl");
    int (*offer)(void *, const unsigned char *, unsigned int) = find("SSL_CTX_set_alpn_protos");
    int (*suites)(void *, const char *) = find("SSL_CTX_set_ciphersuites");
    const char *chain = getenv("BENCH_CLIENT_CERT"), *key = getenv("BENCH_CLIENT_KEY");
    void *context = make(method);
    if (!context || !chain || !key)
        return context;
    if (use_chain(context, chain) != 1 || use_key(context, key, PEM) != 1 ||
        control(context, SET_MIN_PROTO_VERSION, TLS_1_3, NULL) != 1 ||
        suites(context, SUITE) != 1 || offer(context, (const unsigned char *)"\x08http/1.1", 9) != 0) {
        fprintf(stderr, "clientcert: cannot use %s and %s\n", chain, key);
        exit(1);
    }
    return context;
}
