package config

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
	"strings"
)

// maxSecretBytes bounds a secret's file: a key, not a document.
const maxSecretBytes = 64 << 10

// minKeyLength is the shortest API key taken: 16 characters, which a generator makes in no time and nobody guesses.
const minKeyLength = 16

// readSecrets fills the secrets from the environment or from their files. A variable wins over a file, as for any key.
func (c *Config) readSecrets(env environment) (faults Faults, warnings []string) {
	read := func(key, variable, path string, into *Secret) {
		value, fault, warning := readSecret(env, key, variable, path)
		*into = value
		if fault != nil {
			faults = append(faults, *fault)
		}
		if warning != "" {
			warnings = append(warnings, warning)
		}
	}
	read("store.password_file", "METERD_STORE_PASSWORD", c.Store.PasswordFile, &c.Store.Password)
	read("koogallery.seller_key_file", "METERD_KOOGALLERY_SELLER_KEY", c.KooGallery.SellerKeyFile, &c.KooGallery.SellerKey)
	read("koogallery.secret_key_file", "METERD_KOOGALLERY_SECRET_KEY", c.KooGallery.SecretKeyFile, &c.KooGallery.SecretKey)
	read("reporting.shadow_key_file", "METERD_REPORTING_SHADOW_KEY", c.Reporting.ShadowKeyFile, &c.Reporting.ShadowKey)
	for i := range c.Server.Keys {
		k := &c.Server.Keys[i]
		key := entryKey("server.keys", i)
		switch {
		case (k.File == "") == (k.Env == ""):
			faults.add(key, "needs exactly one of key_file and key_env")
		case k.File != "":
			read(key+".key_file", "", k.File, &k.Value)
		default:
			if _, ok := env[k.Env]; !ok {
				faults.add(key+".key_env", fmt.Sprintf("the environment variable %s is not set", shorten(k.Env)))
				continue
			}
			read(key+".key_env", k.Env, "", &k.Value)
		}
	}
	return faults, warnings
}

// readSecret reads one secret. The value itself appears in neither fault nor warning.
func readSecret(env environment, key, variable, path string) (value Secret, fault *Fault, warning string) {
	if text, ok := env[variable]; ok && variable != "" {
		if text == "" {
			return "", &Fault{Key: key, Variable: variable, Message: "is empty; set it or remove it"}, ""
		}
		if reason := secretReason([]byte(text)); reason != "" {
			return "", &Fault{Key: key, Variable: variable, Message: reason}, ""
		}
		return Secret(text), nil, ""
	}
	if path == "" {
		return "", nil, ""
	}
	text, err := readFileLimited(path, maxSecretBytes)
	if err != nil {
		return "", &Fault{Key: key, Message: fmt.Sprintf("%s: %v", path, err)}, ""
	}
	text = bytes.TrimSuffix(bytes.TrimSuffix(text, []byte("\n")), []byte("\r"))
	if reason := secretReason(text); reason != "" {
		return "", &Fault{Key: key, Message: fmt.Sprintf("%s: %s", path, reason)}, ""
	}
	fault, warning = checkMode(key, path)
	return Secret(text), fault, warning
}

// secretReason says why a text can't be a secret, or "".
func secretReason(text []byte) string {
	if len(text) == 0 {
		return "is empty"
	}
	if bytes.ContainsAny(text, "\r\n\x00") {
		return "has a line break or zero byte in it; it must hold the secret alone"
	}
	return ""
}

// checkMode looks at who else can touch a secret's file. Writable by all is a fault; readable by all is a warning,
// because secrets mounted into a container are commonly so.
func checkMode(key, path string) (*Fault, string) {
	info, err := os.Stat(path)
	if err != nil {
		return &Fault{Key: key, Message: fmt.Sprintf("%s: %v", path, pathReason(err))}, ""
	}
	mode := info.Mode().Perm()
	if mode&0o002 != 0 {
		return &Fault{Key: key, Message: fmt.Sprintf("%s can be written by every user (mode %04o); use chmod 0600", path, mode)}, ""
	}
	if mode&0o004 != 0 {
		return nil, fmt.Sprintf("%s: %s can be read by every user (mode %04o); use chmod 0600", key, path, mode)
	}
	return nil, ""
}

// checkFiles makes sure that certificates and the engine's library are there and usable.
func (c *Config) checkFiles() (faults Faults) {
	if c.Server.TLSCertFile != "" && c.Server.TLSKeyFile != "" {
		if _, err := tls.LoadX509KeyPair(c.Server.TLSCertFile, c.Server.TLSKeyFile); err != nil {
			faults.add("server.tls_cert_file", fmt.Sprintf("certificate and key can't be used: %v", err))
		}
	}
	for key, path := range map[string]string{
		"server.client_ca_file": c.Server.ClientCAFile,
		"store.tls_ca_file":     c.Store.TLSCAFile,
		"koogallery.ca_file":    c.KooGallery.CAFile,
	} {
		if path == "" {
			continue
		}
		text, err := readFileLimited(path, 16<<20)
		switch {
		case err != nil:
			faults.add(key, fmt.Sprintf("%s: %v", path, err))
		case !x509.NewCertPool().AppendCertsFromPEM(text):
			faults.add(key, path+": holds no certificate in PEM form")
		}
	}
	if c.KooGallery.ProfileFile != "" {
		if _, err := c.readProfile(); err != nil {
			for _, fault := range flatten(err) {
				faults.add("koogallery.profile_file", fmt.Sprintf("%s: %v", c.KooGallery.ProfileFile, fault))
			}
		}
	}
	if c.Store.Embedded && c.Store.EngineLibrary != "" {
		if info, err := os.Stat(c.Store.EngineLibrary); err != nil {
			faults.add("store.engine_library", fmt.Sprintf("%s: %v", c.Store.EngineLibrary, pathReason(err)))
		} else if !info.Mode().IsRegular() {
			faults.add("store.engine_library", c.Store.EngineLibrary+": is not a regular file")
		}
	}
	return faults
}

// checkKeyValue says why a text is no good API key, or "".
func checkKeyValue(value Secret) string {
	text := value.Reveal()
	if len(text) < minKeyLength {
		return fmt.Sprintf("the key must have at least %d characters (got %d)", minKeyLength, len(text))
	}
	if strings.ContainsFunc(text, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return "the key must be printable ASCII without spaces, because it travels in a header"
	}
	return ""
}
