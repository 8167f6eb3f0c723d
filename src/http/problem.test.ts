import { describe, expect, test } from 'vitest'
import type { ErrorCode } from '../base/errors.ts'
import { errorTable, HoldfastError } from '../base/errors.ts'
import { problemOf, retryAfterSeconds, statusOf } from './problem.ts'

const codes = Object.keys(errorTable) as ErrorCode[]

describe('a problem document', () => {
  test.each(codes)('W1: of %s says its code, category and retry', (code) => {
    const problem = problemOf(new HoldfastError(code, 'what happened', { hint: 'what to do', detail: { shard: 's' } }))
    expect(problem).toEqual({
      type: `urn:holdfast:error:${code}`,
      title: errorTable[code].meaning,
      status: statusOf(errorTable[code].category),
      detail: 'what happened',
      code,
      category: errorTable[code].category,
      retry: errorTable[code].retry,
      hint: 'what to do',
      context: { shard: 's' },
    })
  })

  test.each(codes)('W2: of %s has a status that proxies repeat only when a retry is safe', (code) => {
    const { retry, category } = errorTable[code]
    if (retry === 'unknown' && category === 'ambiguous') expect([502, 503, 504]).not.toContain(statusOf(category))
    expect(statusOf(category)).toBeGreaterThanOrEqual(400)
  })

  test('of a defect tells nothing of the inside', () => {
    const problem = problemOf(new TypeError('cannot read salary 320000 of undefined'))
    expect(problem).toMatchObject({ code: 'internal', status: 500, context: {} })
    expect(JSON.stringify(problem)).not.toContain('salary')
  })

  test('of a thrown value that is no error is internal too', () => {
    expect(problemOf('oops').code).toBe('internal')
  })

  test('can say its own status where HTTP has a better word than the category', () => {
    expect(problemOf(new HoldfastError('argument_invalid', 'too large'), 413)).toMatchObject({
      status: 413,
      category: 'invalid',
    })
  })
})

describe('Retry-After', () => {
  test('of a frontier that was not reached says how far behind the nodes are, in whole seconds', () => {
    const problem = problemOf(new HoldfastError('frontier_not_reached', 'behind', { detail: { retryAfterMs: 1_200 } }))
    expect(problem.status).toBe(503)
    expect(retryAfterSeconds(problem)).toBe(2)
  })

  test('is a second when nobody knows better', () => {
    expect(retryAfterSeconds(problemOf(new HoldfastError('node_unavailable', 'gone')))).toBe(1)
  })

  test('is left out where waiting alone does not make a retry right', () => {
    for (const code of codes) {
      const { retry, category } = errorTable[code]
      const wait = retryAfterSeconds(problemOf(new HoldfastError(code, 'x')))
      expect([code, wait !== undefined]).toEqual([code, category === 'unavailable' && retry === 'safe'])
    }
  })
})
