import { existsSync } from 'node:fs'
import { join, relative } from 'node:path'
import type { TestSpecification, Vitest } from 'vitest/node'
import { BaseSequencer } from 'vitest/node'
import { assert } from '../../src/base/assert.ts'

/**
 * Files that take a minute and more, the longest first: one that begins when the others are done keeps every other worker
 * waiting. Vitest goes by the size of a file where it has never seen one run, which says little about its servers.
 */
const long = [
  'src/fleet/promotions.pg.test.ts',
  'src/fleet/lost-followers.pg.test.ts',
  'src/fleet/left-out.pg.test.ts',
  'src/fleet/promotion.pg.test.ts',
  'test/drills/schedule.test.ts',
  'test/drills/cutover.test.ts',
  'test/cluster/torture.test.ts',
  'test/cluster/cli.test.ts',
  'test/cluster/token-keys.test.ts',
  'test/drills/cutover-broken-off.test.ts',
  'test/cluster/crash-table.test.ts',
  'test/cluster/upgrade-restore.test.ts',
  'test/sim/commit-model.test.ts',
  'test/sim/session-model.test.ts',
]

export class LongestFirst extends BaseSequencer {
  constructor(vitest: Vitest) {
    super(vitest)
    for (const path of long) assert(existsSync(join(vitest.config.root, path)), `${path} is where it is said to be`)
  }

  override async sort(files: TestSpecification[]): Promise<TestSpecification[]> {
    const place = ({ moduleId, project }: TestSpecification) => {
      const index = long.indexOf(relative(project.config.root, moduleId))
      return index < 0 ? long.length : index
    }
    return (await super.sort(files)).toSorted((a, b) => place(a) - place(b))
  }
}
