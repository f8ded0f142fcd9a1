//! Signed tokens (JWT, RFC 7519), as token servers of registries make them.

use aws_lc_rs::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair},
};
use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use serde_json::{Value, json};

use crate::Identity;

impl Identity {
    /// A token with these claims, signed by this identity and carrying its certificate.
    pub fn token(&self, claims: &Value) -> String {
        let head = json!({ "typ": "JWT", "alg": "ES256", "x5c": [STANDARD.encode(self.der())] });
        let parts = [head, claims.clone()].map(|part| URL_SAFE_NO_PAD.encode(part.to_string()));
        let signed = parts.join(".");
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, self.key_der()).unwrap();
        let signature = key.sign(&SystemRandom::new(), signed.as_bytes()).unwrap();
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
}
