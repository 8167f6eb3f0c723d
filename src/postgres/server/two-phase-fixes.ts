/**
 * Which minor version of PostgreSQL a shard should run (HZ-X8).
 *
 * A branch is a prepared transaction, and some minors have lost or revived one in a crash: in those before the ones below, one
 * that was rolled back could be committed by the recovery behind it (release notes of 15.20), which makes half a transaction of
 * what was aborted. Nothing that is sent over SQL can see that.
 */
const firstWithFixes: Readonly<Record<number, number>> = { 15: 20, 16: 16, 17: 12, 18: 7 }

/** The first version of the same major that has the fixes; undefined for one that has them. Throws for a major not known here. */
export function missingTwoPhaseFixes(version: string): string | undefined {
  const [major, minor] = version.split('.').map((part) => Number.parseInt(part, 10))
  const first = major === undefined ? undefined : firstWithFixes[major]
  if (first === undefined) throw new Error(`no minor version of PostgreSQL ${version} is known to have the fixes`)
  // A development version has no minor, and is no release.
  return minor !== undefined && minor >= first ? undefined : `${major}.${first}`
}
