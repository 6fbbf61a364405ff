//! Arithmetic on moments that ends at the calendar's ends instead of failing there.

use std::time::Duration;

use jiff::Timestamp;
use rcgen::CertificateParams;

/// `time` moved forward.
pub(crate) fn after(time: Timestamp, distance: Duration) -> Timestamp {
    time.checked_add(distance).unwrap_or(Timestamp::MAX)
}

/// `time` moved back.
pub(crate) fn before(time: Timestamp, distance: Duration) -> Timestamp {
    time.checked_sub(distance).unwrap_or(Timestamp::MIN)
}

/// Makes a certificate valid from `not_before` to `not_after`, in the whole seconds that X.509 counts in.
pub(crate) fn set_validity(params: &mut CertificateParams, not_before: Timestamp, not_after: Timestamp) {
    let since_epoch = |time: Timestamp| Duration::from_secs(u64::try_from(time.as_second()).unwrap_or(0));
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    params.not_before = epoch + since_epoch(not_before);
    params.not_after = epoch + since_epoch(not_after);
}
