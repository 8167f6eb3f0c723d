import { availableParallelism } from 'node:os'
import { fileURLToPath } from 'node:url'
import { defineConfig } from 'vitest/config'
import { LongestFirst } from './test/support/longest-first.ts'
import { folderInMemory } from './test/support/memory-folder.ts'

const path = (relative: string) => fileURLToPath(new URL(relative, import.meta.url))

const alias = { 'holdfast/testing': path('src/testing.ts'), holdfast: path('src/index.ts') }

/** On a machine that others load as well, a server may take longer to start than any deadline allows for. */
const retry = process.env['CI'] === undefined ? 0 : 2

/** Vitest leaves one for itself, which on two of them is half of the machine. */
const cores = Math.max(availableParallelism(), 2)

/** For all that a run stores, in this process and in its workers, unless somebody has said where. */
const temporary = process.env['TMPDIR'] ?? folderInMemory()
if (temporary !== undefined) process.env['TMPDIR'] = temporary

export default defineConfig({
  test: {
    sequence: { sequencer: LongestFirst },
    projects: [
      {
        resolve: { alias },
        test: {
          name: 'unit',
          isolate: false,
          sequence: { groupOrder: 0 },
          maxWorkers: cores,
          testTimeout: 120_000,
          include: ['src/**/*.test.ts', 'test/*.test.ts', 'test/{crash,sim}/**/*.test.ts'],
          exclude: ['**/*.pg.test.ts'],
        },
      },
      {
        resolve: { alias },
        test: {
          name: 'postgres',
          sequence: { groupOrder: 1 },
          // Most of what these do is to wait for servers.
          maxWorkers: cores + 2,
          retry,
          include: ['src/**/*.pg.test.ts'],
          globalSetup: ['test/support/postgres-server.ts'],
          testTimeout: 60_000,
          hookTimeout: 60_000,
          expect: { poll: { timeout: 20_000 } },
        },
      },
      {
        resolve: { alias },
        test: {
          name: 'cluster',
          // A fleet is a dozen processes, which wait for each other half of the time.
          sequence: { groupOrder: 2 },
          maxWorkers: Math.min(cores, 2) + 1,
          retry,
          include: ['test/cluster/**/*.test.ts', 'test/drills/**/*.test.ts', 'examples/**/*.test.ts'],
          testTimeout: 180_000,
          hookTimeout: 180_000,
          expect: { poll: { timeout: 20_000 } },
        },
      },
    ],
  },
})
