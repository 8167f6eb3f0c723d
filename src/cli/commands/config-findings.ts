import { isDeepStrictEqual } from 'node:util'
import { HoldfastError } from '../../base/errors.ts'
import { type ConfigReference, type FleetConfig, readConfig } from '../../fleet/config.ts'
import { loadInvariants } from '../../recovery/invariant.ts'
import type { Finding } from './doctor.ts'

/** What `doctor` says of the file that a running fleet was started from: only the next start goes by what it says now. */
export async function fileFindings(started: ConfigReference): Promise<Finding[]> {
  if (started.file === null) return []
  try {
    const { reference } = await readConfig(started.file)
    return changeFindings(started, reference)
  } catch (error) {
    if (!(error instanceof HoldfastError)) throw error
    const detail = `the fleet runs by what it was started with, and could not be started again: ${error.message}`
    return [{ what: 'configuration', status: 'problem', detail }]
  }
}

export function changeFindings(started: ConfigReference, now: ConfigReference): Finding[] {
  const [before, after] = [started, now].map(({ source }) => new Map<string, unknown>(Object.entries(source)))
  const keys = new Set([...(before?.keys() ?? []), ...(after?.keys() ?? [])])
  const changed = [...keys].filter((key) => !isDeepStrictEqual(before?.get(key), after?.get(key)))
  if (changed.length === 0) return []
  const detail = `${now.file} has changed in ${changed.join(', ')} since the fleet was started: the next start goes by it`
  return [{ what: 'configuration', status: 'warning', detail }]
}

/** What a restore would find on the bad day. */
export async function invariantFindings({ invariants }: Pick<FleetConfig, 'invariants'>): Promise<Finding[]> {
  if (invariants === null) return []
  try {
    const { length } = await loadInvariants(invariants)
    return [{ what: 'invariants', status: 'ok', detail: `${length} in ${invariants}` }]
  } catch (error) {
    if (!(error instanceof HoldfastError)) throw error
    return [{ what: 'invariants', status: 'problem', detail: error.message }]
  }
}
