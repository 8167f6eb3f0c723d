/**
 * What a connection says first (PostgreSQL, "Message Formats", `StartupMessage`): its length, the version of the
 * protocol, then names and values, each ended by a zero byte, and one more zero byte.
 */
const headerBytes = 8
const majorVersion = 3

/** The `application_name` of a connection by its first bytes; empty when they name none or are no such message. */
export function applicationNameOf(bytes: Buffer): string {
  if (bytes.length < headerBytes || bytes.readUInt16BE(4) !== majorVersion) return ''
  const parts = bytes.subarray(headerBytes, bytes.readUInt32BE(0)).toString('utf8').split('\0')
  for (let at = 0; at + 1 < parts.length; at += 2) {
    if (parts[at] === 'application_name') return parts[at + 1] ?? ''
  }
  return ''
}
