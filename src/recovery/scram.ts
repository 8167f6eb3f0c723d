import { createHash, createHmac, pbkdf2Sync, timingSafeEqual } from 'node:crypto'

const verifierForm = /^SCRAM-SHA-256\$(\d+):([A-Za-z0-9+/=]+)\$([A-Za-z0-9+/=]+):([A-Za-z0-9+/=]+)$/

/**
 * Whether a password would be accepted by a role that keeps this verifier (RFC 5803; PostgreSQL, "pg_authid"). Asked of the
 * catalogue because an environment lets nobody but the administrator in. For passwords that need no SASLprep, like ours.
 */
export function acceptsPassword(verifier: string, password: string): boolean {
  const match = verifierForm.exec(verifier)
  if (match?.[1] === undefined || match[2] === undefined || match[3] === undefined) return false
  const salted = pbkdf2Sync(password, Buffer.from(match[2], 'base64'), Number(match[1]), 32, 'sha256')
  const clientKey = createHmac('sha256', salted).update('Client Key').digest()
  const storedKey = createHash('sha256').update(clientKey).digest()
  const expected = Buffer.from(match[3], 'base64')
  return expected.length === storedKey.length && timingSafeEqual(expected, storedKey)
}
