//! The certificate authority of the webhook.
