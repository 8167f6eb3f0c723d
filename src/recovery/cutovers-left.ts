import type { ShardName } from '../directory/topology.ts'
import { type CutoverJournal, loadJournal } from './cutover-journal.ts'
import { EnvironmentRegistry } from './environment.ts'

/** A cutover that has begun and is neither done nor given up. Where none runs, it was broken off. */
export interface CutoverLeft {
  readonly environment: string
  readonly journal: Exclude<CutoverJournal, { readonly state: 'done' }>
}

/** Of every environment, those that hold the shard. */
export async function cutoversLeft(environmentsDir: string, name: ShardName): Promise<CutoverLeft[]> {
  const registry = new EnvironmentRegistry(environmentsDir)
  const found = await Promise.all(
    (await registry.list()).map(async ({ id }): Promise<CutoverLeft[]> => {
      const journal = await loadJournal(registry.folderOf(id))
      if (journal === undefined || journal.state === 'done') return []
      return journal.standings.some(({ shard }) => shard === name) ? [{ environment: id, journal }] : []
    }),
  )
  return found.flat()
}
